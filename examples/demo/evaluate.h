// The comparison: every recipe answers the same exams and reads the same text, each from its own
// compressed cache. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_EVALUATE_H_
#define KVGEAR_EXAMPLES_DEMO_EVALUATE_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "device.h"
#include "exams.h"
#include "model.h"
#include "threads.h"

namespace demo {

/// Kullback-Leibler divergence from the fp16 cache's next-token distribution, in nats.
struct Divergence {
  double sum = 0;
  double most = 0;
  uint64_t same_top = 0;  // positions with the same most likely token
  uint64_t positions = 0;
  std::vector<float> values;  // one a position

  void Add(double divergence, bool same) {
    sum += divergence;
    most = std::max(most, divergence);
    same_top += same;
    ++positions;
    values.push_back(static_cast<float>(divergence));
  }
  /// The least value that 99 % of the positions do not exceed.
  double percentile_99() const;
  double mean() const { return sum / static_cast<double>(positions); }
  double same_top_share() const {
    return static_cast<double>(same_top) / static_cast<double>(positions);
  }
};

/// The exams of one kind.
struct Score {
  uint32_t right = 0;
  uint32_t tried = 0;
  Divergence answers;  // over the positions of their answers
};

struct Result {
  std::string recipe;
  Divergence text;                     // positions == 0: no text was given
  Divergence answers;                  // over the positions of all exams' answers
  std::map<std::string, Score> exams;  // by kind

  // Bytes that the caches held at the end of each exam and window, everything counted.
  uint64_t sequences = 0;
  uint64_t bytes = 0;
  uint64_t plan_bytes = 0;  // of a plan file's factors, for all caches together; not among `bytes`
  uint64_t elements = 0;
  uint64_t fp16_bytes = 0;
  uint64_t tokens = 0;  // that came, over all layers
  uint64_t kept = 0;    // of these, at the end
  // Sums over sealed elements, to be divided by their number.
  double error_k_sum = 0;
  double error_v_sum = 0;
  double sealed = 0;

  double decode_tokens_per_s = 0;
  double attention_ms = 0;  // of a decode step, appending included

  double kept_share() const {
    return static_cast<double>(kept) / static_cast<double>(tokens);
  }
  double bits_per_element() const {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
  }
  double mean_bytes() const { return static_cast<double>(bytes) / static_cast<double>(sequences); }
  double mean_fp16_bytes() const {
    return static_cast<double>(fp16_bytes) / static_cast<double>(sequences);
  }
  double times_smaller() const { return mean_fp16_bytes() / mean_bytes(); }
  double error_k() const { return sealed > 0 ? error_k_sum / sealed : 0; }
  double error_v() const { return sealed > 0 ? error_v_sum / sealed : 0; }
  Score all_exams() const;
};

/// What is asked: exams, and windows of a text of which the first kWindowPrompt bytes are read as a
/// prompt and the rest is scored byte by byte.
struct Questions {
  std::vector<Exam> exams;
  std::vector<std::string> windows;
};

inline constexpr size_t kWindowPrompt = 2048;
inline constexpr size_t kWindowScored = 256;

/// Whether Evaluate times decoding too.
enum class Speed { kMeasured, kLeftOut };

/// Runs all recipes (or plans) over all questions. `recipes` must begin with "fp16", which the others
/// are compared with. Shows its progress on stderr.
std::vector<Result> Evaluate(Model& model, ThreadPool& pool, const std::vector<std::string>& recipes,
                             const Questions& questions, Speed speed = Speed::kMeasured,
                             const DevicePtr& device = nullptr);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_EVALUATE_H_
