"""The two-layer net of the paper's MNIST experiment: rolora beside plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.encoders import PLAIN, ROLORA
from benchmarks.measure import Work, Workload
from benchmarks.plain_loop import Batches, PlainLoop, StateDict, all_batches
from benchmarks.simulation import Simulation
from experiments.mnist.net import TwoLayerNet, two_layer_model, with_base_product
from rolora.client.evaluation import Split
from rolora.config import Config, parse_config
from rolora.core.seeds import torch_generator
from rolora.data import Examples, partition
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import checked_method
from rolora.tasks import make_task

PIXELS, WIDTH, LABELS = 784, 200, 10


def two_layer(quick: bool) -> Workload:
    """784-200-10 with LoRA on the hidden layer, 50 clients, batches of 32."""
    config = parse_config(
        {
            "rounds": 2 if quick else 4,
            "lora": {"r": 16, "lora_alpha": 16},
            "partition": {"name": "iid"},
            "federation": {"clients": 50},
            "optimizer": {"lr": 1e-3, "local_steps": 10, "batch_size": 32},
        }
    )
    return Workload(
        title="two-layer net 784-200-10, 50 clients",
        variants={PLAIN: lambda: plain_work(config), ROLORA: lambda: simulation(config).work()},
        targets={ROLORA: 5.0},
        tolerance={ROLORA: 1e-5},
        repeats=3 if quick else 15,
    )


def digits(config: Config) -> tuple[Examples, list[Tensor]]:
    """Random examples of MNIST's shape, as many as a tenth of it, and the clients' shares."""
    generator = torch_generator(config.seed, "benchmark", "digits")
    labels = torch.randint(0, LABELS, (6000,), generator=generator)
    x = torch.rand(6000, PIXELS, generator=generator)
    examples = Examples(labels, labels, tuple(map(str, range(LABELS))), dense={"x": x})
    return examples, partition(labels, config.partition, config.federation.clients, config.seed)


def simulation(config: Config) -> Simulation:
    """Rolora's rounds."""
    examples, shares = digits(config)
    net = TwoLayerNet(PIXELS, WIDTH, LABELS, config.seed)
    split = Split(with_base_product(examples, net.hidden), shares)
    model = two_layer_model(net)
    initial = model.initial_adapter(config.lora.r, config.seed)
    run = (config, checked_method(config), make_task(config.task))
    return Simulation(InProcess(*run, model, {"train": split}), initial)


class PlainNet(nn.Module):
    """The net in plain torch: LoRA on the hidden layer, all else frozen."""

    def __init__(self, net: TwoLayerNet, r: int, scaling: float):
        super().__init__()
        self.hidden, self.out, self.scaling = net.hidden, net.out, scaling
        self.lora_A = nn.Parameter(torch.empty(r, PIXELS))
        self.lora_B = nn.Parameter(torch.empty(WIDTH, r))

    def forward(self, x: Tensor) -> Tensor:
        update = nn.functional.linear(nn.functional.linear(x, self.lora_A), self.lora_B)
        return self.out(torch.relu(self.hidden(x) + self.scaling * update))

    def factors(self) -> StateDict:
        return {"lora_A": self.lora_A.detach(), "lora_B": self.lora_B.detach()}


def plain_work(config: Config) -> Work:
    """The same rounds by the plain loop, from the same factors, on the same batches."""
    examples, shares = digits(config)
    scaling = config.lora.lora_alpha / config.lora.r
    net = PlainNet(TwoLayerNet(PIXELS, WIDTH, LABELS, config.seed), config.lora.r, scaling)
    dataset = TensorDataset(examples.dense["x"], examples.targets)

    def loader(batches: Batches) -> DataLoader:
        return DataLoader(dataset, sampler=batches, batch_size=None)

    loop = PlainLoop(
        model=net,
        loader=loader,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        settings=config.optimizer,
        get=PlainNet.factors,
        set=lambda model, state: model.load_state_dict(state, strict=False),
    )
    initial = simulation(config).initial.parts
    start = {f"lora_{part}": tensor.clone() for (_, part), tensor in initial.items()}
    batches, sizes = all_batches(config, shares), [len(rows) for rows in shares]

    def run() -> Tensor:
        state = loop.run(start, batches, sizes)
        return torch.cat([state["lora_A"].reshape(-1), state["lora_B"].reshape(-1)])

    return Work(run, sample=lambda: loop.train(start, "lora_B", batches[0][0]))
