"""Records: what was measured, one file per experiment and stage, the only state; and the tidy table made of them."""

from claw.records.record_files import (
    STAGES,
    checksum,
    every,
    has,
    name_of,
    open_record,
    path_of,
    read_record,
    read_stages,
    write_record,
)
from claw.records.result_columns import PRIMARY, limit_text, primary_columns
from claw.records.tidy_frame import COLUMNS, ORDER, from_records, save_csv, table

__all__ = ["COLUMNS", "ORDER", "PRIMARY", "STAGES", "checksum", "every", "from_records", "has", "limit_text", "name_of"]
__all__ += ["open_record", "path_of", "primary_columns", "read_record", "read_stages", "save_csv", "table", "write_record"]
