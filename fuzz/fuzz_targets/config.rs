//! A configuration that is accepted makes a decoder whose sizes can be computed with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::parse_config;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Ok(spec)) = parse_config(bytes).map(|config| config.decoder()) {
        assert_eq!(spec.heads % spec.kv_heads, 0);
        for weight in spec.weights() {
            assert!(weight.shape.iter().try_fold(1_u64, |all, &dim| all.checked_mul(dim)).is_some());
        }
    }
});
