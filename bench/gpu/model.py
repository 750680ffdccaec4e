# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder that vLLM takes for Qwen3-VL-8B-Instruct with `load-format: dummy`: all but the weights.

    PYTHON_OF_VLLM -m bench.gpu.model FOLDER [--tiny]

Config of the real size, the real preprocessor's numbers, Qwen's special tokens at their real ids, and a byte-level
tokenizer whose other entries are words that nobody wrote. Needs transformers, which vLLM's environment has; no network.
--tiny: the same with 2 layers of width 64.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import Any

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
FIRST, VOCABULARY = 151643, 151936
IMAGE = FIRST + SPECIAL.index("<|image_pad|>")
TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' or 'video' in part -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
TEXT: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
VISION: dict[str, Any] = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
TINY_TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 64,
}  # fmt: skip
TINY_VISION: dict[str, Any] = {
    "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def tokenizer(out: pathlib.Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for number in range(len(words), FIRST):
        words[f"w{number}x"] = number
    plain = Tokenizer(models.BPE(vocab=words, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    plain.add_tokens([f"<pad{number}>" for number in range(FIRST + len(SPECIAL), VOCABULARY)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False, model_max_length=262144,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    fast.save_pretrained(out)
    if fast.convert_tokens_to_ids("<|image_pad|>") != IMAGE or len(fast) != VOCABULARY:
        raise SystemExit("this version of tokenizers gives the special tokens other ids than Qwen's")


def config(out: pathlib.Path, tiny: bool) -> None:
    from transformers import GenerationConfig, Qwen3VLConfig

    text, vision = (TINY_TEXT, TINY_VISION) if tiny else (TEXT, VISION)
    rope = {
        "rope_type": "default", "rope_theta": 5000000, "mrope_section": [12, 10, 10] if tiny else [24, 20, 20],
        "mrope_interleaved": True,
    }  # fmt: skip
    Qwen3VLConfig(
        text_config={
            **text, "vocab_size": VOCABULARY, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False, "bos_token_id": FIRST, "eos_token_id": FIRST + 2, "dtype": "bfloat16",
            "rope_parameters": rope,
        },
        vision_config={
            **vision, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
            "out_hidden_size": text["hidden_size"], "num_position_embeddings": 2304,
        },
        image_token_id=IMAGE, video_token_id=IMAGE + 1, vision_start_token_id=IMAGE - 3,
        vision_end_token_id=IMAGE - 2, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["Qwen3VLForConditionalGeneration"],
    ).save_pretrained(out)  # fmt: skip
    GenerationConfig(
        eos_token_id=[FIRST + 2, FIRST], pad_token_id=FIRST, do_sample=True, temperature=0.7, top_p=0.8, top_k=20
    ).save_pretrained(out)


def preprocessors(out: pathlib.Path) -> None:
    common = {
        "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "processor_class": "Qwen3VLProcessor",
    }  # fmt: skip
    files: dict[str, dict[str, Any]] = {
        "preprocessor_config.json": {
            **common, "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
        "video_preprocessor_config.json": {
            **common, "size": {"longest_edge": 25165824, "shortest_edge": 4096}, "fps": 2, "min_frames": 4,
            "max_frames": 768, "video_processor_type": "Qwen3VLVideoProcessor",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
    }  # fmt: skip
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    given.folder.mkdir(parents=True, exist_ok=True)
    tokenizer(given.folder)
    config(given.folder, given.tiny)
    preprocessors(given.folder)
    print(given.folder, sum(file.stat().st_size for file in given.folder.iterdir()), "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
