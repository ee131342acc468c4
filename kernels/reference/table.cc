// ReferenceTable(): the scalar truth as a table of operations.
#include "kernels/ops.h"
#include "kernels/reference/reference.h"

namespace kvg::ops {

const Table& ReferenceTable() {
  static constexpr Table kTable = {
      .magic = kOpsMagic,
      .version = kOpsVersion,
      .struct_size = sizeof(Table),
      .name = "reference",
      .attend_scratch = reference::AttendScratch,
      .attend = reference::Attend,
      .seal_scratch = reference::SealScratch,
      .seal = reference::Seal,
      .read = reference::Read,
      .ingest = reference::Ingest,
      .score_scratch = reference::ScoreScratch,
      .score = reference::Score,
  };
  return kTable;
}

}  // namespace kvg::ops
