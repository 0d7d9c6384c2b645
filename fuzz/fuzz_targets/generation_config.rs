//! Sampling defaults that are accepted are within their ranges.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::parse_generation_config;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(defaults) = parse_generation_config(bytes) {
        assert!(defaults.top_p.is_none_or(|p| (0.0..=1.0).contains(&p)));
        assert!(defaults.temperature.is_none_or(f32::is_finite));
    }
});
