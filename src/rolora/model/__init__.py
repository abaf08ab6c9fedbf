"""A pretrained model with stacked LoRA layers in place."""
