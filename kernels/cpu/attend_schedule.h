// How a call of attend is cut into units of work, and what its scratch memory holds.
//
// Used by attend.cc alone; the same for every SIMD target. The cut depends on the arguments only,
// not on the number of workers, and so does the result.
#ifndef KVGEAR_KERNELS_CPU_ATTEND_SCHEDULE_H_
#define KVGEAR_KERNELS_CPU_ATTEND_SCHEDULE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attend_state.h"
#include "kernels/ops.h"

namespace kvg::cpu::attention {

// A unit: one item, one KV head, some rows, some tokens.
struct Unit {
  uint64_t item;
  uint32_t kv_head;
  uint64_t first_row, rows;
  uint64_t begin, end;  // tokens
  uint64_t split, splits;
  uint64_t team;    // units of the same rows are a team; the one that is done last merges
  float* partials;  // of the team: [splits][rows][PartialStride]
};

class Schedule {
 public:
  // Fills the tables in args.scratch.
  Schedule(const ops::AttendArgs& args, uint32_t workers) : Schedule(args) {
    uint8_t* const scratch = static_cast<uint8_t*>(args.scratch);
    workers_ = reinterpret_cast<Worker*>(scratch);
    uint64_t at = workers * sizeof(Worker);
    items_ = reinterpret_cast<Item*>(scratch + at);
    at += Align(args.count * sizeof(Item));
    arrived_ = reinterpret_cast<uint32_t*>(scratch + at);
    at += Align(teams() * sizeof(uint32_t));
    partials_ = reinterpret_cast<float*>(scratch + at);
    std::fill_n(arrived_, teams(), 0u);
    Item next{};
    for (uint64_t i = 0; i < args.count; ++i) {
      Item& item = items_[i];
      item = next;
      CutTokens(args.items[i], &item);
      next.first_unit += item.splits * teams_per_item_;
      next.first_partial += Partials(item.splits);
    }
    units_ = next.first_unit;
  }

  static uint64_t ScratchBytes(const ops::AttendArgs& args, uint32_t workers) {
    const Schedule schedule(args);
    uint64_t floats = 0;
    for (uint64_t i = 0; i < args.count; ++i) {
      Item item{};
      schedule.CutTokens(args.items[i], &item);
      floats += schedule.Partials(item.splits);
    }
    return workers * sizeof(Worker) + Align(args.count * sizeof(Item)) +
           Align(schedule.teams() * sizeof(uint32_t)) + floats * sizeof(float);
  }

  uint64_t units() const { return units_; }

  Unit At(uint64_t index) const {
    const Item* const item =
        std::upper_bound(items_, items_ + args_.count, index,
                         [](uint64_t i, const Item& x) { return i < x.first_unit; }) -
        1;
    const uint64_t local = index - item->first_unit;
    const uint64_t team = local / item->splits;
    Unit unit;
    unit.item = static_cast<uint64_t>(item - items_);
    unit.splits = item->splits;
    unit.split = local % item->splits;
    unit.kv_head = static_cast<uint32_t>(team / row_units_);
    unit.first_row = team % row_units_ * kUnitRows;
    unit.rows = std::min<uint64_t>(kUnitRows, rows_ - unit.first_row);
    unit.begin = (item->first_split + unit.split) * split_tokens_;
    unit.end = std::min(unit.begin + split_tokens_, args_.items[unit.item].length);
    unit.team = unit.item * teams_per_item_ + team;
    unit.partials = partials_ + item->first_partial + team * TeamFloats(item->splits);
    return unit;
  }

  Worker& worker(uint32_t i) const { return workers_[i]; }
  uint32_t& arrived(uint64_t team) const { return arrived_[team]; }
  uint64_t partial_stride() const { return stride_; }

 private:
  struct Item {
    uint64_t first_unit;
    uint64_t first_partial;
    uint64_t first_split, splits;
  };

  explicit Schedule(const ops::AttendArgs& args)
      : args_(args),
        rows_(uint64_t{args.queries} * (args.q_heads / args.kv_heads)),
        row_units_((rows_ + kUnitRows - 1) / kUnitRows),
        // So the states kept for merging do not grow with the number of rows.
        split_tokens_(kSplit * row_units_),
        teams_per_item_(args.kv_heads * row_units_),
        stride_(PartialStride(ops::PadDirs(args.head_dim))) {}

  static constexpr uint64_t Align(uint64_t bytes) {
    return (bytes + ops::kAlign - 1) / ops::kAlign * ops::kAlign;
  }

  // Leaves out the splits that lie before the sliding window of the first query.
  void CutTokens(const ops::AttendItem& item, Item* cut) const {
    const uint64_t sees = item.length - args_.queries + 1;  // tokens up to the first query's own
    const uint64_t window = args_.sliding_window;
    const uint64_t begin = window == 0 || window > sees ? 0 : sees - window;
    cut->first_split = begin / split_tokens_;
    cut->splits = (item.length + split_tokens_ - 1) / split_tokens_ - cut->first_split;
  }

  uint64_t teams() const { return args_.count * teams_per_item_; }
  uint64_t TeamFloats(uint64_t splits) const {
    return splits == 1 ? 0 : splits * std::min<uint64_t>(rows_, kUnitRows) * stride_;
  }
  uint64_t Partials(uint64_t splits) const { return teams_per_item_ * TeamFloats(splits); }

  const ops::AttendArgs& args_;
  const uint64_t rows_, row_units_, split_tokens_, teams_per_item_, stride_;
  Worker* workers_ = nullptr;
  Item* items_ = nullptr;
  uint32_t* arrived_ = nullptr;
  float* partials_ = nullptr;
  uint64_t units_ = 0;
};

}  // namespace kvg::cpu::attention

#endif  // KVGEAR_KERNELS_CPU_ATTEND_SCHEDULE_H_
