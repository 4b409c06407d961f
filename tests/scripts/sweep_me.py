"""A script with TrainingArguments' flags that knows nothing of gap_hf."""

import sys
from pathlib import Path

from transformers import HfArgumentParser, Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.tiny import tiny_data, tiny_model

(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
trainer = Trainer(tiny_model(), args, train_dataset=tiny_data(), eval_dataset=tiny_data(16, seed=2))
trainer.train()
trainer.evaluate()
trainer.save_state()
