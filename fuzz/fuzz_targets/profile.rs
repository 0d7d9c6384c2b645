//! Any configuration, alone or in a pipeline, has a profile or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::fixture::MemoryDir;
use overflowml_formats::profile_in;
use overflowml_types::CacheElement;

fuzz_target!(|input: (&[u8], Option<&[u8]>)| {
    let (config, index) = input;
    let mut dir = MemoryDir::default().with("config.json", config).with("unet/config.json", config);
    if let Some(index) = index {
        dir = dir.with("model_index.json", index);
    }
    if let Ok(profile) = profile_in(&dir, None) {
        let _ = (profile.size(), profile.parameters());
        for part in profile.components {
            let _ = part.cache(u64::MAX, CacheElement::F16);
        }
    }
});
