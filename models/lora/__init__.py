"""LoRA files of every usual layout, merged into a transformer's weights.

notes = check_loras(model, [(Path("style.safetensors"), 0.8)])  # needs no weights, changes nothing
merge_loras(model, [(Path("style.safetensors"), 0.8), (Path("fast.safetensors"), 1.0)])
"""

from .merge import check_loras as check_loras
from .merge import merge_lora as merge_lora
from .merge import merge_loras as merge_loras
