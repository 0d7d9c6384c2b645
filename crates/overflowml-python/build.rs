//! Where linkers refuse symbols that are not there yet (macOS), tells them that Python brings its own.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
