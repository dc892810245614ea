"""Labels to spectra with the emulator's own error: one interface (`base`), and a module for each kind."""
