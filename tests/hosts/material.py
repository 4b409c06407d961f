"""What every host is given: a tiny Llama with a tokenizer, and rows for it in the formats that hosts read.

python -m tests.hosts.material FOLDER
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..tiny import tiny_model

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
LINES = [" ".join(NUMBERS[(i + j) % 13] for j in range(8)) for i in range(13)] * 8
# With these every candidate is applied somewhere in eight steps; at lower rates the first nearly always is.
LEARNING_RATE = 0.1
BETAS = "0.8:0.9:0.99"
TEMPLATE = "{% for message in messages %}{{ message['content'] }} </s> {% endfor %}"


def write(folder: Path) -> None:
    """Write the model into ``folder/model``, the rows into ``text.jsonl``, ``alpaca.jsonl`` and ``chat.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>", "<s>", "</s>"]))
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder / "model")
    tiny_model(vocab=32).save_pretrained(folder / "model")
    rows = {
        "text": [{"text": line} for line in LINES],
        "alpaca": [{"instruction": line[:20], "input": "", "output": line[20:]} for line in LINES],
        "chat": [
            {"messages": [{"role": "user", "content": line[:20]}, {"role": "assistant", "content": line[20:]}]}
            for line in LINES
        ],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
