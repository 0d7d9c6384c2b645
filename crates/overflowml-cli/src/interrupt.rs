//! Ctrl-C: ends the reply being made, at the next layer; a second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

static PRESSED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C (or a polite kill) sets a flag that long work looks at.
pub fn listen() {
    let installed = ctrlc::set_handler(|| {
        if PRESSED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if let Err(error) = installed {
        crate::output::note(&format!("warning: Ctrl-C will end the program at once: {error}"));
    }
}

/// The flag.
pub fn flag() -> &'static AtomicBool {
    &PRESSED
}

/// Forgets an interrupt that was acted on.
pub fn clear() {
    PRESSED.store(false, Ordering::SeqCst);
}
