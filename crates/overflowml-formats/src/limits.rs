//! Every cap on what a file may claim, in one place.
//!
//! A cap is checked before anything is allocated or multiplied by the claimed number. All are far
//! above what real models use, so that hitting one means a broken or hostile file.

use overflowml_types::Bytes;

/// A safetensors header (the reference implementation's own limit is 100 MB).
pub const HEADER: Bytes = Bytes::new(100_000_000);

/// Tensors in one safetensors file.
pub const TENSORS_PER_FILE: usize = 1 << 20;

/// Dimensions of one tensor.
pub const DIMENSIONS: usize = 16;

/// Bytes of a tensor's name.
pub const NAME: usize = 4096;

/// `config.json` and `generation_config.json`.
pub const CONFIG: Bytes = Bytes::mib(4);

/// `model.safetensors.index.json`.
pub const INDEX: Bytes = Bytes::mib(256);

/// Components of one pipeline.
pub const COMPONENTS: usize = 64;

/// A GGUF header, its tokenizer included.
pub const GGUF_HEADER: Bytes = Bytes::mib(256);

/// Metadata entries of a GGUF file.
pub const GGUF_ENTRIES: usize = 1 << 16;

/// Bytes of a metadata key (the format's own limit).
pub const GGUF_KEY: usize = 65_535;

/// Bytes of a metadata text: chat templates are the longest.
pub const GGUF_TEXT: usize = 1 << 24;

/// Lists in lists.
pub const GGUF_DEPTH: usize = 4;

/// `general.alignment`.
pub const GGUF_ALIGNMENT: u64 = 1 << 20;

/// Shards of one model.
pub const SHARDS: usize = 4096;

/// Entries of a model's folder.
pub const FOLDER_ENTRIES: usize = 65_536;

/// `num_hidden_layers`.
pub const LAYERS: usize = 4096;

/// `hidden_size`, and the width of all heads together.
pub const HIDDEN: usize = 1 << 20;

/// `intermediate_size`.
pub const INTERMEDIATE: usize = 1 << 22;

/// `num_attention_heads`.
pub const HEADS: usize = 1 << 14;

/// `head_dim`.
pub const HEAD_DIM: usize = 1 << 14;

/// Experts of one layer.
pub const EXPERTS: usize = 1 << 14;

/// `vocab_size`, and token ids.
pub const VOCAB: usize = 1 << 24;

/// `max_position_embeddings` and sliding windows, in tokens.
pub const CONTEXT: usize = 1 << 30;

/// Tensors of a model on paper; experts of a layer count once.
pub const PIECES: usize = 1 << 19;

/// Token ids that end a text.
pub const STOP_TOKENS: usize = 4096;
