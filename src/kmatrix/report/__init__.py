"""HTML reports and pictures of what was fitted; needs the extra ``kmatrix[cli]`` (matplotlib)."""

from kmatrix.report.boxes import write_boxes_report as write_boxes_report
from kmatrix.report.compression import write_compression_report as write_compression_report
from kmatrix.report.page import Section as Section
from kmatrix.report.page import write_report as write_report
