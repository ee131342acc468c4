// The operations of the reference table, and the steps of its Seal.
//
// Included by the files of kernels/reference alone; everybody else calls ops::ReferenceTable().
// The operations do as kernels/ops.h says, one element at a time on the caller's thread: `parallel`
// and the number of workers are ignored.
#ifndef KVGEAR_KERNELS_REFERENCE_REFERENCE_H_
#define KVGEAR_KERNELS_REFERENCE_REFERENCE_H_

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::reference {

uint64_t AttendScratch(const ops::AttendArgs* args, uint32_t workers);
void Attend(const ops::AttendArgs* args, const ops::Parallel* parallel);
uint64_t SealScratch(const ops::SealArgs* args, const ops::SealOut* out, uint32_t workers);
void Seal(const ops::SealArgs* args, ops::SealOut* out, const ops::Parallel* parallel);
void Read(const ops::ReadArgs* args);
bool Ingest(const ops::IngestArgs* args);
uint64_t ScoreScratch(const ops::ScoreArgs* args, uint32_t workers);
void Score(const ops::ScoreArgs* args, const ops::Parallel* parallel);

// outliers.cc: sets outlier[(head * tokens + token) * head_dim + direction] to 1 for entries that
// are to be stored exactly and to 0 elsewhere. `order` has room for the longest vector, see
// OutlierVector.
void MarkOutliers(const ops::SealArgs& args, const ops::SealOut& out, uint8_t* outlier,
                  uint32_t* order);

// Number of entries among which the outliers of one vector are chosen.
uint64_t OutlierVector(const ops::SealArgs& args, const ops::SealOut& out);

// lowrank.cc: factors of one head's residual[token * head_dim + direction], written as fp16 to
// a[r * a_stride + token] and b[r * b_stride + direction]; padding is left alone. `work` has room
// for rank * (tokens + head_dim) numbers.
struct LowRankTask {
  const ops::SealSpec& spec;
  uint32_t head;
  const float* residual;
  uint64_t tokens;
  uint32_t head_dim;
  float* work;
  uint16_t* a;
  uint64_t a_stride;
  uint16_t* b;
  uint64_t b_stride;
};
void FitLowRank(const LowRankTask& task);

}  // namespace kvg::reference

#endif  // KVGEAR_KERNELS_REFERENCE_REFERENCE_H_
