"""What this recipe shares with that of compression: the data, the batches, the loop and the transformer."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "compression"))

import data as data
from models import Attention as Attention
from models import Block as Block
from models import Transformer as Transformer
from report import versions as versions
from tasks import Batch as Batch
from tasks import Characters as Characters
from tasks import Digits as Digits
from tasks import Schedule as Schedule
from tasks import Task as Task
from tasks import scaled as scaled
from training import bar as bar
from training import named_tensors as named_tensors
from training import rate as rate
from training import replace as replace
from training import train as train
