"""Fine-tune a model by LoRA in Lightning: ``lightning_fit.py MODEL DATA OUTPUT LAYOUT [STEPS] [CHECKPOINT]``.

The layout "plain" is the same training as a plain loop.
"""

import json
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from transformers import AutoModelForCausalLM, AutoTokenizer

import gap_hf
from gap_hf.integrations.lightning import GapCallback

LENGTH, BATCH = 8, 4


class Module(L.LightningModule):
    def __init__(self, model):
        super().__init__()
        torch.manual_seed(0)
        lora = LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), lora)

    def configure_model(self):
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            mesh = self.device_mesh["data_parallel"]
            for layer in self.model.base_model.model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(self.model, mesh=mesh)

    def training_step(self, batch, index):
        loss = self.model(input_ids=batch[0], labels=batch[0]).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return gap_hf.GapAdamW(trained, lr=0.1, betas=[(0.8, 0.999), (0.99, 0.999)], type="switch_parameter_wise")


def rows(model, data):
    """The texts as rows of the same length."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in Path(data).read_text(encoding="utf-8").splitlines()]
    return torch.stack([torch.tensor(tokenizer(text)["input_ids"][:LENGTH]) for text in texts])


def plain(module, data, output, steps):
    optimizer = module.configure_optimizers()
    with gap_hf.Recorder(optimizer, module, output) as recorder:
        for step, batch in zip(range(1, steps + 1), DataLoader(data, batch_size=BATCH), strict=False):
            optimizer.zero_grad()
            module.model(input_ids=batch[0], labels=batch[0]).loss.backward()
            optimizer.step()
            recorder.add(step)


def main(model, data, output, layout, steps="8", checkpoint=None):
    module, data = Module(model), TensorDataset(rows(model, data))
    if layout == "plain":
        plain(module, data, output, int(steps))
        return
    processes = 1 if layout == "one" else 2
    strategy = {
        "one": lambda: "auto",
        "ddp": lambda: "ddp",
        "fsdp2": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        "zero2": lambda: DeepSpeedStrategy(stage=2, process_group_backend="gloo"),
        "zero3": lambda: DeepSpeedStrategy(stage=3, process_group_backend="gloo"),
    }[layout]()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=strategy,
        max_steps=int(steps),
        log_every_n_steps=1,
        logger=CSVLogger(output, name="", version=""),
        default_root_dir=output,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[GapCallback()],
    )
    rank = trainer.global_rank if processes > 1 else 0
    sampler = DistributedSampler(data, processes, rank, shuffle=False)
    trainer.fit(module, DataLoader(data, batch_size=BATCH // processes, sampler=sampler), ckpt_path=checkpoint)
    trainer.save_checkpoint(Path(output) / "end.ckpt")


if __name__ == "__main__":
    main(*sys.argv[1:])
