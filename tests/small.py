"""Small models, data and engines that many tests share."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from rolora.client.evaluation import Split
from rolora.config import TaskConfig, parse_config
from rolora.core.seeds import torch_generator
from rolora.data import Examples
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import checked_method, setting_of
from rolora.methods import make_method
from rolora.model.loading import build_lora_model, load_pretrained
from rolora.model.lora import LoraModel
from rolora.server.ledger import Ledger
from rolora.server.round import run_rounds
from rolora.tasks import make_task

CLASSIFICATION = make_task(TaskConfig())
WORDS = [f"w{i}" for i in range(60)]
WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
ARCHITECTURES = {
    "bert": {**WIDTHS, "num_hidden_layers": 3},
    "roberta": {**WIDTHS, "num_hidden_layers": 3, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 48, "n_layers": 3},
    "modernbert": {**WIDTHS, "num_hidden_layers": 3, "global_attn_every_n_layers": 2},
}
_TWO = {**WIDTHS, "num_hidden_layers": 2}
_GROUPED = {**_TWO, "num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 80}
OTHERS = {
    "albert": {**_TWO, "num_hidden_layers": 3, "embedding_size": 16},
    "bart": {
        "d_model": 32,
        **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")},
    },
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
    "camembert": {**_TWO, "type_vocab_size": 1},
    "deberta": {**_TWO, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {**_TWO, "relative_attention": True, "pos_att_type": "p2c|c2p"},
    "electra": {**_TWO, "embedding_size": 16},
    "ernie": _TWO,
    "falcon": _TWO,
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8},
    "gemma3_text": {**_GROUPED, "head_dim": 8},
    "gpt2": _GPT,
    "gpt_neo": {
        "hidden_size": 32,
        "num_heads": 4,
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": _TWO,
    "gptj": {**_GPT, "rotary_dim": 4},
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "mixtral": {**_GROUPED, "num_local_experts": 2},
    "mobilebert": {**_TWO, "embedding_size": 16, "intra_bottleneck_size": 16},
    "mpnet": _TWO,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 80},
    "opt": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "word_embed_proj_dim": 32,
    },
    "phi": _TWO,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "stablelm": _GROUPED,
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "xlm-roberta": {**_TWO, "type_vocab_size": 1},
}
"""Architectures that are looked at for their targets and their adapters alone."""
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def tokenizer():
    """One word, one token; a classification token before and a separator after."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **SPECIAL)


def save_model(path, architecture):
    """A body of random weights without a head, and the tokenizer; returns `path`."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=64 if architecture in ARCHITECTURES else 72,  # some tokenizers add their own
        max_position_embeddings=80,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=0,
        initializer_range=0.2,  # lively activations, so that a wrong one shows
        **(ARCHITECTURES | OTHERS)[architecture],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def causal(architecture="llama", vocab_size=64, **shape):
    """A language model of random weights; `shape` adds to what :data:`OTHERS` has of it."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocab_size,
        max_position_embeddings=80,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.2,
        **{**OTHERS.get(architecture, {}), **shape},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


def save_causal(path, architecture="llama"):
    """The same on disk with a tokenizer that knows words alone; returns `path`."""
    causal(architecture).save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def word_tokenizer(chat_template=None):
    """One word, one token, and nothing before or after; what is no word is unknown."""
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    vocabulary = {word: i for i, word in enumerate([*names.values(), *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names)
    made.chat_template = chat_template
    return made


TAKES = {
    "flora": {"optimizer": {"state": "reset"}},
    "fedrot_lora": {"optimizer": {"state": "transport"}},
    "fedsvd": {
        "optimizer": {"state": "transport"},
        "server": {"optimizer": "fedavg", "lr": 1.0},
    },
}
"""By method: what it takes in place of kept optimiser states and of a server optimiser."""


def config(**sections):
    """A config; every section is given as a mapping."""
    defaults = {
        "rounds": 4,
        "lora": {"r": 2, "lora_alpha": 8, "target_modules": ["query", "value"]},
        "federation": {"clients": 3},
        "optimizer": {"lr": 0.01, "local_steps": 2, "batch_size": 4},
        "engine": {"workers": 1},
    }
    for name, value in sections.items():
        both = isinstance(value, dict) and isinstance(defaults.get(name), dict)
        defaults[name] = {**defaults[name], **value} if both else value
    return parse_config(defaults)


def text_examples(n, seed=0, num_labels=2, shortest=1, longest=12):
    """Sentences of random words whose label the first word gives away."""
    generator = torch_generator(seed, "text")
    lengths = torch.randint(shortest, longest + 1, (n,), generator=generator) + 2
    labels = torch.randint(0, num_labels, (n,), generator=generator)
    pieces = []
    for length, label in zip(lengths.tolist(), labels.tolist(), strict=True):
        words = torch.randint(4, 64, (length,), generator=generator)
        words[0], words[1], words[-1] = 2, 4 + label, 3
        pieces.append(words)
    return Examples(
        targets=labels,
        strata=labels,
        names=tuple(f"label{i}" for i in range(num_labels)),
        tokens={"input_ids": torch.cat([*pieces, torch.zeros(1)]).int()},
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
    )


def spoken(examples):
    """The same texts, of whose tokens the last half is learned."""
    offsets, ids = examples.offsets, examples.tokens["input_ids"]
    place = torch.arange(len(ids) - 1) - offsets[:-1].repeat_interleave(examples.lengths)
    learned = (place >= (examples.lengths // 2).repeat_interleave(examples.lengths)).int()
    sums = torch.cat([torch.zeros(1, dtype=torch.int64), learned.cumsum(0)])
    return Examples(
        targets=sums[offsets[1:]] - sums[offsets[:-1]],
        strata=torch.zeros(len(examples), dtype=torch.int64),
        names=(),
        tokens={"input_ids": ids, "learned": torch.cat([learned, learned.new_zeros(1)])},
        offsets=offsets,
    )


def pixel_examples(n, seed=0, d=10, num_labels=3):
    """Points around one centre a label."""
    generator = torch_generator(seed, "pixels")
    labels = torch.randint(0, num_labels, (n,), generator=generator)
    centres = torch.randn(num_labels, d, generator=torch_generator(99, "centres"))
    x = centres[labels] + torch.randn(n, d, generator=generator)
    names = tuple(f"label{i}" for i in range(num_labels))
    return Examples(labels, labels, names, dense={"x": x})


class Net(nn.Module):
    """A wide Linear, a square Linear and a Conv1D, each adapted, and a head."""

    def __init__(self, seed=0):
        super().__init__()
        self.wide, self.square = nn.Linear(10, 16), nn.Linear(16, 16)
        self.conv, self.score = Conv1D(12, 16), nn.Linear(12, 3)
        generator = torch_generator(seed, "net")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, x):
        for layer in (self.wide, self.square, self.conv):
            x = torch.tanh(layer(x))
        return self.score(x)


TARGETS = ("wide", "square", "conv")
HEAD = ("score.weight", "score.bias")


def net_model(train_head=False, dropout_p=0.0):
    return LoraModel(Net(), TARGETS, HEAD, dropout_p=dropout_p, train_head=train_head)


def text_model(directory, settings, labels=("label0", "label1")):
    pretrained = load_pretrained(settings.model, labels, settings.seed)
    return build_lora_model(pretrained, settings)


def shares(sizes):
    """Example numbers dealt out in order: the first client's, the second's, ..."""
    return list(torch.arange(sum(sizes)).split(list(sizes)))


def engine(settings, model=None, sizes=(9, 5, 7), examples=None):
    """An in-process engine over `sizes` examples a client."""
    model = model or net_model(settings.model.head != "frozen", settings.lora.dropout)
    train = examples or pixel_examples(sum(sizes))
    held = pixel_examples(12, seed=1) if examples is None else examples
    dealt = shares(sizes)
    held_shares = list(torch.arange(len(held)).tensor_split(len(dealt)))
    splits = {"train": Split(train, dealt), "validation": Split(held, held_shares)}
    return InProcess(settings, method(settings), make_task(settings.task), model, splits)


def checked(settings):
    """The method, once everything that goes with it has been checked."""
    return checked_method(settings)


def method(settings):
    return make_method(settings.method, setting_of(settings))


class Memory:
    """A record that keeps everything it is given."""

    def __init__(self):
        self.metrics, self.states = [], []

    def round_finished(self, metrics):
        self.metrics.append(metrics)

    def checkpoint(self, state, ledger, engine, unseen=None):
        self.states.append((state, {c: dict(v) for c, v in ledger.held.items()}))


def run(settings, engine, state=None, ledger=None):
    """Run all rounds; returns the final state and the record."""
    chosen, record = engine.method, Memory()
    if state is None:
        initial = engine.model.initial_adapter(settings.lora.max_rank, settings.seed)
        state = chosen.init(initial)
    task = make_task(settings.task)
    state = run_rounds(settings, chosen, task, engine, state, ledger or Ledger(), record)
    return state, record
