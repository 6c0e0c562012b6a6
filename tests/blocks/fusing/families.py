"""Every spelling by the family of models, or the library, that it is of: each is fused, or says why not.

python -m tests.campaigns fusions        # prints the table
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import language_models as language
from . import lookalikes, loss_spellings
from . import other_models as other
from . import spellings as by_hand
from .language_models import GROUPED, HEADS_LAST, LATENT, LAYER, OTHER, OUT, QKV, TABLE, X
from .other_models import IMAGE, LATENTS, MIXED, PAIRS, SCALED, SEQUENCE, VECTORS

PASSED_OVER = "passed over"  # what is no attention: not fused, with or without a reason


class Spelling(NamedTuple):
    """reason: of what is not fused, as a pattern; None where it is. count: how often it is found."""

    function: Callable
    operands: Sequence[Any]
    reason: str | None = None
    count: int = 1


ENCODER = [X, OTHER, QKV, OUT]
BIASED = [*HEADS_LAST, TABLE]
MODELS: dict[str, list[Spelling]] = {
    "nanoGPT": [Spelling(language.nano_gpt, LAYER)],
    "GPT-2": [Spelling(language.gpt2_by_numbers, LAYER)],
    "GPT-J": [Spelling(language.gpt_j, HEADS_LAST)],
    "GPT-Neo (local)": [Spelling(language.gpt_neo_local, HEADS_LAST)],
    "LLaMA": [Spelling(language.llama, GROUPED), Spelling(language.llama_grouped_by_broadcasting, GROUPED)],
    "Mistral": [Spelling(language.mistral, HEADS_LAST)],
    "Gemma": [Spelling(language.gemma, GROUPED)],
    "Qwen": [Spelling(language.qwen, HEADS_LAST)],
    "T5": [Spelling(language.t5, BIASED), Spelling(language.t5_with_padding, BIASED)],
    "BERT": [Spelling(language.bert, LAYER)],
    "DistilBERT": [Spelling(language.distil_bert, LAYER)],
    "DeBERTa": [Spelling(language.deberta, BIASED)],
    "Transformer-XL": [Spelling(language.transformer_xl, BIASED)],
    "BART, fairseq": [Spelling(language.bart_cross, ENCODER)],
    "Whisper": [Spelling(language.whisper, LAYER)],
    "BLOOM, MPT (ALiBi)": [Spelling(language.alibi, HEADS_LAST)],
    "PaLM": [Spelling(language.palm, GROUPED)],
    "DeepSeek": [Spelling(language.deepseek, LATENT), Spelling(language.deepseek_two_products, LATENT)],
    "gpt-oss (sinks)": [Spelling(language.gpt_oss_sinks, HEADS_LAST, "weights pass through slice")],
    "packed documents": [Spelling(language.packed, HEADS_LAST)],
    "decoding": [Spelling(language.decoding, HEADS_LAST), Spelling(language.fed_in_chunks, HEADS_LAST)],
    "Longformer": [Spelling(other.longformer_blocks, SCALED)],
    "top keys": [Spelling(other.top_keys, SCALED, "is read by top_k")],
    "talking heads": [Spelling(other.talking_heads, MIXED, "the keys differ from query to query")],
    "log n scaling": [Spelling(other.per_query_temperature, SCALED)],
    "ViT": [Spelling(other.vit, LAYER)],
    "Swin": [Spelling(other.swin, IMAGE)],
    "Swin 2 (cosines)": [Spelling(other.swin2, SCALED)],
    "diffusion": [Spelling(other.diffusion_block, IMAGE), Spelling(other.flattened_image, IMAGE)],
    "axial": [Spelling(other.axial, IMAGE, count=2)],
    "DETR": [Spelling(other.detr, LAYER)],
    "CLIP": [Spelling(other.clip_text, LAYER)],
    "SAM": [Spelling(other.sam_decomposed, SCALED)],
    "Perceiver": [Spelling(other.perceiver, LATENTS), Spelling(other.perceiver_shared_latents, LATENTS)],
    "Set Transformer": [Spelling(other.set_transformer, LAYER, count=2)],
    "AlphaFold": [Spelling(other.alphafold, PAIRS)],
    "Conformer": [Spelling(other.conformer, SCALED)],
    "Graphormer": [Spelling(other.graphormer, SCALED)],
    "GAT": [Spelling(other.graph_attention, LAYER, "an array takes its place")],
    "Bahdanau": [Spelling(other.bahdanau, SEQUENCE, "the keys differ from query to query")],
    "Luong": [Spelling(other.luong, VECTORS)],
    "Hopfield": [Spelling(other.hopfield, SEQUENCE, count=2)],
    "Pointer Network": [Spelling(other.pointer, SEQUENCE, PASSED_OVER)],
    "Decision Transformer": [Spelling(other.decision_transformer, LAYER)],
    "rotary by Equinox": [Spelling(other.rotary_equinox, LAYER)],
    "sigmoid attention": [Spelling(other.sigmoid_attention, SCALED, PASSED_OVER)],
    "linear attention": [Spelling(other.linear_attention, SCALED, "no product of two arrays", 2)],
    "softmax of one more": [Spelling(other.softmax_of_one_more, SCALED, "not divided by their own sum")],
    "weights masked after": [Spelling(other.weights_masked_after, SCALED, "dropped or masked .* after the softmax")],
    "layers by scan": [Spelling(other.rotary_per_layer, LAYER)],
}
SPELLINGS: dict[str, list[Spelling]] = MODELS | {
    "by hand, and by libraries": [Spelling(function, operands) for function, operands in by_hand.TAKEN],
    "last layer and loss": [
        Spelling(function, loss_spellings.LAYER) for function in (*loss_spellings.LOSSES, *loss_spellings.AT_ONCE)
    ],
    "near misses": [Spelling(*row) for row in lookalikes.MISSED],
    "lookalikes": [Spelling(*row, PASSED_OVER) for row in lookalikes.LOOKALIKES],
}
