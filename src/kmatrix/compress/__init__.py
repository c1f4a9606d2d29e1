"""Whole models: choose, fit, measure, swap, heal, lower and save."""

from kmatrix.compress.calibrate import Calibration as Calibration
from kmatrix.compress.calibrate import Moments as Moments
from kmatrix.compress.calibrate import calibrate as calibrate
from kmatrix.compress.healing import HealReport as HealReport
from kmatrix.compress.healing import heal as heal
from kmatrix.compress.learning import LearnedLayer as LearnedLayer
from kmatrix.compress.learning import LearnReport as LearnReport
from kmatrix.compress.learning import learn_structure as learn_structure
from kmatrix.compress.lower import LoweredLayer as LoweredLayer
from kmatrix.compress.lower import LoweringReport as LoweringReport
from kmatrix.compress.lower import lower_ as lower_
from kmatrix.compress.lower import stock_layer as stock_layer
from kmatrix.compress.plan import compress_ as compress_
from kmatrix.compress.result import CompressReport as CompressReport
from kmatrix.compress.result import LayerReport as LayerReport
from kmatrix.compress.result import Point as Point
from kmatrix.compress.result import Tried as Tried
from kmatrix.compress.select import select as select
from kmatrix.compress.storage import ModelDescription as ModelDescription
from kmatrix.compress.storage import SavedLayer as SavedLayer
from kmatrix.compress.storage import describe_model as describe_model
from kmatrix.compress.storage import load_model as load_model
from kmatrix.compress.storage import save as save
from kmatrix.compress.stream import Streamed as Streamed
from kmatrix.compress.stream import compress_stream as compress_stream
from kmatrix.compress.stream import weights_of as weights_of
