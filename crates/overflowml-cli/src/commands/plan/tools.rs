//! The same in other programs: flags and code, from the plan's numbers.

use std::fmt::Write;

use anyhow::bail;
use overflowml::Task;
use overflowml::device::{Candidate, DevicePlan, Offload, Precision};

use crate::args::Tool;

/// What to type or write.
pub fn text(tool: Tool, plan: &DevicePlan, model: Option<&str>) -> anyhow::Result<String> {
    let Some(best) = plan.decision.recommended() else {
        bail!("nothing fits, in no program: see `overflowml plan` for what is missing");
    };
    let name = model.unwrap_or("MODEL");
    let text_model = plan.model.task == Task::Text;
    match tool {
        Tool::LlamaCpp | Tool::Vllm | Tool::Accelerate if !text_model => {
            bail!("that program runs language models; for this one there is `--for diffusers`")
        }
        Tool::Diffusers if text_model => {
            bail!(
                "diffusers makes pictures; for a language model there are llama.cpp, vllm and accelerate"
            )
        }
        Tool::LlamaCpp => Ok(llama_cpp(plan, best, name)),
        Tool::Vllm => Ok(vllm(plan, best, name)),
        Tool::Accelerate => Ok(accelerate(plan, best, name)),
        Tool::Diffusers => Ok(diffusers(best, name)),
    }
}

fn llama_cpp(plan: &DevicePlan, best: &Candidate, model: &str) -> String {
    let context = plan.wish.positions();
    let stage = best.stages.first();
    let layers = plan.model.components.first().map_or(0, |part| part.groups.len());
    let whole = plan.model.size().as_f64().max(1.0);
    let weights = stage.map_or(0.0, |stage| {
        (stage.device.as_f64() + stage.host.as_f64() + stage.disk.as_f64()).max(1.0)
    });
    let share = stage.map_or(0.0, |stage| stage.device.as_f64() / weights.max(1.0));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    // a share of a small count
    let on_gpu = (share * layers as f64).floor() as usize;
    let file = match best.quantization {
        Precision::Exact => "BF16",
        Precision::Fp8 | Precision::Int8 => "Q8_0",
        Precision::Int4 => "Q4_K_M",
    };
    let mut flags = format!("llama-server -m {model}-{file}.gguf -c {context}");
    let _ = match (best.on_device, best.offload) {
        (true, Offload::None) => write!(flags, " -ngl 999"),
        (true, Offload::ExpertOffload) => {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss
            )]
            let on_cpu = ((1.0 - share) * layers as f64).ceil() as usize;
            write!(flags, " -ngl 999 --n-cpu-moe {on_cpu}")
        }
        (true, _) => write!(flags, " -ngl {on_gpu}"),
        (false, _) => write!(flags, " -ngl 0 -dev none"),
    };
    let threads = plan.machine.cpu.usable.value;
    if !best.is_resident() || !best.on_device {
        let _ = write!(flags, " -t {threads}");
    }
    let mut text = flags;
    if best.memory.disk > overflowml::Bytes::ZERO {
        text.push_str(
            "\n# llama.cpp reads what does not fit through the page cache: expect it to read nearly all of the file for \
             every token; `overflowml run` reads only what does not fit",
        );
    }
    let _ = writeln!(
        text,
        "\n# {:.0} % of {:.1} GiB of weights on the GPU",
        share * 100.0,
        whole / 1_073_741_824.0
    );
    text
}

fn vllm(plan: &DevicePlan, best: &Candidate, model: &str) -> String {
    let context = plan.wish.positions();
    let mut text = format!("vllm serve {model} --max-model-len {context}");
    let _ = match best.quantization {
        Precision::Fp8 => write!(text, " --quantization fp8"),
        Precision::Int8 | Precision::Int4 => write!(text, " --quantization bitsandbytes"),
        Precision::Exact => Ok(()),
    };
    if best.devices > 1 {
        let _ = write!(text, " --tensor-parallel-size {}", best.devices);
    }
    if best.on_device && !best.is_resident() {
        let away: f64 =
            best.stages.iter().map(|stage| stage.host.as_f64() + stage.disk.as_f64()).sum();
        let _ = write!(text, " --cpu-offload-gb {:.0}", (away / 1e9).ceil());
    }
    if best.memory.disk > overflowml::Bytes::ZERO {
        text.push_str(
            "\n# vLLM has no disk tier: what is on disk here must fit in main memory there",
        );
    }
    text.push('\n');
    text
}

fn accelerate(plan: &DevicePlan, best: &Candidate, model: &str) -> String {
    let gib = |bytes: f64| (bytes / 1_073_741_824.0).floor();
    let device: f64 = best.stages.iter().map(|stage| stage.device.as_f64()).sum();
    let host = plan.decision.resources.host.usable.as_f64();
    let mut text = "from transformers import AutoModelForCausalLM\n\n".to_owned();
    let _ = writeln!(text, "model = AutoModelForCausalLM.from_pretrained(");
    let _ = writeln!(text, "    {model:?},");
    let _ = writeln!(text, "    dtype=\"auto\",");
    if best.on_device && best.is_resident() && best.devices == 1 {
        let _ = writeln!(text, "    device_map={{\"\": 0}},");
    } else if best.on_device {
        let _ = writeln!(text, "    device_map=\"auto\",");
        let cards: Vec<_> = (0..best.devices)
            .map(|card| format!("{card}: \"{}GiB\"", gib(device / best.devices as f64)))
            .collect();
        let _ = writeln!(
            text,
            "    max_memory={{{}, \"cpu\": \"{}GiB\"}},",
            cards.join(", "),
            gib(host)
        );
    } else {
        let _ = writeln!(text, "    device_map=\"auto\",");
        let _ = writeln!(text, "    max_memory={{\"cpu\": \"{}GiB\"}},", gib(host));
    }
    if best.memory.disk > overflowml::Bytes::ZERO {
        let _ = writeln!(text, "    offload_folder=\"offload\",");
    }
    let _ = match best.quantization {
        Precision::Exact => Ok(()),
        Precision::Fp8 => {
            writeln!(text, "    quantization_config=transformers.FineGrainedFP8Config(),")
        }
        Precision::Int8 => {
            writeln!(
                text,
                "    quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),"
            )
        }
        Precision::Int4 => {
            writeln!(
                text,
                "    quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True),"
            )
        }
    };
    if best.quantization != Precision::Exact {
        text = text.replacen("from transformers", "import transformers\nfrom transformers", 1);
    }
    text.push_str(")\n");
    text
}

fn diffusers(best: &Candidate, model: &str) -> String {
    let mut text = "import torch\nfrom diffusers import DiffusionPipeline\n\n".to_owned();
    let _ = writeln!(
        text,
        "pipe = DiffusionPipeline.from_pretrained({model:?}, torch_dtype=torch.bfloat16)"
    );
    let _ = match (best.on_device, best.offload) {
        (false, _) => writeln!(text, "pipe.to(\"cpu\")"),
        (true, Offload::None) => writeln!(text, "pipe.to(\"cuda\")"),
        (true, Offload::ModelCpu) => writeln!(text, "pipe.enable_model_cpu_offload()"),
        (true, Offload::Disk) => writeln!(
            text,
            "pipe.enable_group_offload(\n    onload_device=torch.device(\"cuda\"), offload_type=\"block_level\", \
             num_blocks_per_group=1,\n    offload_to_disk_path=\"offload\",  # a second copy of the weights\n)"
        ),
        (true, _) => writeln!(
            text,
            "pipe.enable_group_offload(  # streams every block; nothing stays, unlike in the plan\n    \
             onload_device=torch.device(\"cuda\"), offload_type=\"block_level\", num_blocks_per_group=1, \
             use_stream=True,\n)"
        ),
    };
    if best.tiled_vae {
        let _ = writeln!(text, "pipe.vae.enable_tiling()");
    }
    if best.quantization != Precision::Exact {
        let _ = writeln!(
            text,
            "# the plan stores weights as {}: pass a quantization_config to from_pretrained",
            best.quantization.name()
        );
    }
    text
}
