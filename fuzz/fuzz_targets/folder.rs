//! Any folder of configuration, index and one shard opens or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::fixture::MemoryDir;
use overflowml_formats::open_model_in;

fuzz_target!(|input: (&[u8], &[u8], &[u8])| {
    let (config, index, shard) = input;
    let dir = MemoryDir::default()
        .with("config.json", config)
        .with("model.safetensors.index.json", index)
        .with("model-00001.safetensors", shard);
    if let Ok(model) = open_model_in(&dir, None) {
        let _ = model.bind();
    }
});
