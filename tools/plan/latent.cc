// Latent plans: inputs of the projections are recorded while the demo's decoder reads prompts; the
// subspaces follow from them and the weights, layer by layer.
#include "latent.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "core/model/factors.h"
#include "evaluate.h"
#include "exams.h"
#include "factorise.h"
#include "files.h"
#include "model.h"
#include "prefill.h"
#include "refusal.h"
#include "shared.h"
#include "threads.h"

ABSL_FLAG(std::string, allocate, "uniform", "latent: how ranks are shared out: uniform, fisher or lorc");
ABSL_FLAG(double, ratio, 0.5, "latent: share of the ranks that is kept (uniform, fisher)");
ABSL_FLAG(double, most, 0.75, "latent: share of the first layer (lorc)");
ABSL_FLAG(double, least, 0.35, "latent: share of the last layer (lorc)");
ABSL_FLAG(std::string, fisher, "", "latent: JSON {\"k\": [a number for each layer], \"v\": [...]} (fisher)");
ABSL_FLAG(uint32_t, head_group, 4, "latent: KV heads that share a latent (0: all; at most as many as there are)");
ABSL_FLAG(uint32_t, rank_step, 8, "latent: ranks are multiples of this multiple of 8");
ABSL_FLAG(bool, rotate, true, "latent: fold a block Hadamard rotation into the factors");
ABSL_FLAG(std::string, recipes, "", "latent: recipes of the plan (default: palu, or lorc)");

namespace kvgplan {
namespace {

using demo::Refuse;

constexpr size_t kMostRows = 4096;  // of a layer's recorded inputs

/// Inputs of the projections of each layer, [rows, hidden].
using Inputs = std::vector<std::vector<float>>;

Inputs Record(demo::Model& model, demo::ThreadPool& pool, const std::vector<std::string>& prompts) {
  const size_t hidden = model.config().hidden;
  Inputs inputs(model.config().layers);
  size_t tokens = 0;
  for (const std::string& prompt : prompts) tokens += prompt.size();
  const size_t step = std::max<size_t>(1, (tokens + kMostRows - 1) / kMostRows);
  for (const std::string& prompt : prompts) {
    const size_t taken = (prompt.size() + step - 1) / step, before = inputs[0].size() / hidden;
    for (auto& rows : inputs) rows.resize((before + taken) * hidden);
    // Blocks of tokens come from several threads, each to places of its own.
    demo::Prefill(model, pool, demo::Tokens(prompt), nullptr,
                  [&](uint32_t layer, size_t first, size_t count, const float* rows) {
                    for (size_t t = first; t < first + count; ++t) {
                      if (t % step != 0) continue;
                      std::copy_n(rows + (t - first) * hidden, hidden,
                                  inputs[layer].data() + (before + t / step) * hidden);
                    }
                  });
  }
  return inputs;
}

std::vector<double> Moment(const std::vector<float>& rows, size_t hidden) {
  std::vector<double> moment(rows.empty() ? 0 : hidden * hidden, 0.0);
  const size_t count = rows.size() / hidden;
  for (size_t r = 0; r < count; ++r) {
    const float* const x = rows.data() + r * hidden;
    for (size_t i = 0; i < hidden; ++i) {
      const auto factor = static_cast<double>(x[i]) / static_cast<double>(count);
      double* const to = moment.data() + i * hidden;
      for (size_t j = 0; j < hidden; ++j) to[j] += factor * static_cast<double>(x[j]);
    }
  }
  return moment;
}

/// Rows [first, first + rows) of a packed matrix.
std::vector<double> RowsOf(const demo::Linear& linear, size_t first, size_t rows) {
  std::vector<double> out(rows * linear.inputs);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < linear.inputs; ++i) {
      out[r * linear.inputs + i] = static_cast<double>(linear.Weight(first + r, i));
    }
  }
  return out;
}

std::vector<std::string> Prompts() {
  std::vector<std::string> prompts;
  const uint32_t items = absl::GetFlag(FLAGS_max_items) > 0 ? absl::GetFlag(FLAGS_max_items) : 4;
  for (const std::string& file : absl::GetFlag(FLAGS_calibrate)) {
    if (HoldsExams(file)) {
      for (const demo::Exam& exam : demo::ChooseExams(demo::ReadExams(file), items, 1)) {
        prompts.push_back(exam.prompt);
      }
    } else {
      for (const std::string& window :
           demo::ChooseWindows(demo::ReadWholeFile(file), demo::kWindowPrompt, items, 1)) {
        prompts.push_back(window);
      }
    }
  }
  return prompts;
}

/// One side of one layer: its groups' subspaces, and what became of them.
struct Matrix {
  std::vector<std::vector<double>> weights;  // of each group
  std::vector<Subspace> plain, subspaces;
  uint32_t rank = 0;
};

std::vector<double> FisherNumbers(const std::string& path, uint32_t layers) {
  if (path.empty()) Refuse("--allocate=fisher needs --fisher=FILE with a number for each matrix.");
  const nlohmann::json json = nlohmann::json::parse(demo::ReadWholeFile(path), nullptr, false);
  std::vector<double> out;
  for (const char* side : {"k", "v"}) {
    const bool whole = json.is_object() && json.contains(side) && json[side].is_array() &&
                       json[side].size() == layers;
    if (!whole) Refuse(path, " has no list '", side, "' of ", layers, " numbers, one for each layer.");
    for (const auto& number : json[side]) {
      const double value = number.is_number() ? number.get<double>() : -1;
      if (!(value >= 0) || !std::isfinite(value)) Refuse(path, ": '", side, "' holds no number.");
      out.push_back(value);
    }
  }
  return out;
}

class Planner {
 public:
  Planner(demo::Model& model, demo::ThreadPool& pool) : model_(model), c_(model.config()), pool_(pool) {
    group_ = absl::GetFlag(FLAGS_head_group);
    if (group_ == 0 || group_ > c_.kv_heads) group_ = c_.kv_heads;
    if (c_.kv_heads % group_ != 0) {
      Refuse("--head_group is ", group_, ", which does not divide the ", c_.kv_heads, " KV heads.");
    }
    limits_ = {group_ * c_.head_dim, c_.kv_heads / group_, absl::GetFlag(FLAGS_rank_step)};
    if (limits_.step == 0 || limits_.step % 8 != 0 || limits_.step > limits_.full) {
      Refuse("--rank_step is ", limits_.step, "; it may be a multiple of 8 up to ", limits_.full, ".");
    }
  }

  void Decompose(const Inputs& inputs) {
    matrices_.resize(2 * size_t{c_.layers});
    std::vector<std::vector<double>> moments(c_.layers);
    pool_.Run(c_.layers, [&](size_t l, size_t) {
      if (!inputs.empty()) moments[l] = Moment(inputs[l], c_.hidden);
    });
    pool_.Run(matrices_.size(), [&](size_t m, size_t) {
      const size_t layer = m / 2;
      const demo::Linear& qkv = model_.layers()[layer].qkv;
      const size_t begin = c_.q_width() + (m % 2 == 0 ? 0 : c_.kv_width());
      for (size_t g = 0; g < limits_.groups; ++g) {
        std::vector<double> w = RowsOf(qkv, begin + g * limits_.full, limits_.full);
        matrices_[m].plain.push_back(Factorise(w, limits_.full, c_.hidden, {}));
        matrices_[m].subspaces.push_back(
            moments[layer].empty() ? matrices_[m].plain.back()
                                   : Factorise(w, limits_.full, c_.hidden, moments[layer]));
        matrices_[m].weights.push_back(std::move(w));
      }
    });
  }

  void Allocate() {
    const std::string how = absl::GetFlag(FLAGS_allocate);
    const double ratio = absl::GetFlag(FLAGS_ratio), most = absl::GetFlag(FLAGS_most),
                 least = absl::GetFlag(FLAGS_least);
    if (!(ratio > 0 && ratio <= 1)) Refuse("--ratio is to be above 0 and at most 1.");
    if (!(least > 0 && least <= most && most <= 1)) Refuse("--least and --most: 0 < least <= most <= 1.");
    if (how == "lorc") {
      std::vector<double> conditions(c_.layers, 0.0);
      for (size_t m = 0; m < matrices_.size(); ++m) {
        // Of the whole matrix: the largest and the least of its groups.
        std::vector<double> all;
        for (const Subspace& s : matrices_[m].plain) all.insert(all.end(), s.singular.begin(), s.singular.end());
        conditions[m / 2] += LogCondition(all);
      }
      const std::vector<double> shares = ConditionShares(conditions, most, least);
      for (size_t m = 0; m < matrices_.size(); ++m) {
        matrices_[m].rank = RoundedRank(shares[m / 2] * limits_.full, limits_);
      }
      return;
    }
    std::vector<double> importance(matrices_.size(), 1.0);
    if (how == "fisher") {
      const std::vector<double> numbers = FisherNumbers(absl::GetFlag(FLAGS_fisher), c_.layers);
      for (size_t m = 0; m < importance.size(); ++m) importance[m] = numbers[m % 2 * c_.layers + m / 2];
    } else if (how != "uniform") {
      Refuse("--allocate is '", demo::Shown(how), "'; it may be uniform, fisher or lorc.");
    }
    const std::vector<uint32_t> ranks = ShareRanks(importance, ratio, limits_);
    for (size_t m = 0; m < matrices_.size(); ++m) matrices_[m].rank = ranks[m];
  }

  void Write(const std::string& path) const {
    const bool lorc = absl::GetFlag(FLAGS_allocate) == "lorc";
    const std::string recipes = absl::GetFlag(FLAGS_recipes);
    kvg::PlanWriter writer = BeginPlan(model_, !recipes.empty() ? recipes : lorc ? "lorc" : "palu");
    writer.Text("rope", "half");
    writer.Doubles("rope.frequencies", {c_.rope_frequencies.size()}, c_.rope_frequencies);
    for (size_t m = 0; m < matrices_.size(); ++m) {
      const std::string prefix = "layers." + std::to_string(m / 2) + (m % 2 == 0 ? ".k." : ".v.");
      writer.Halves(prefix + "latent", {limits_.groups, group_, matrices_[m].rank, c_.head_dim},
                    Factors(matrices_[m]));
      const std::vector<float>& bias = model_.layers()[m / 2].qkv.bias;
      if (bias.empty()) continue;
      const auto begin = bias.begin() + c_.q_width() + (m % 2 == 0 ? 0 : c_.kv_width());
      writer.Floats(prefix + "bias", {c_.kv_heads, c_.head_dim},
                    std::vector<float>(begin, begin + c_.kv_width()));
    }
    EndPlan(writer, path);
  }

  void Report(bool whitened) const {
    std::printf("layer  side  rank of %-5u  lost of the matrix%s\n", limits_.full,
                whitened ? "  lost of the recorded rows" : "");
    uint64_t rank = 0;
    for (size_t m = 0; m < matrices_.size(); ++m) {
      const Matrix& matrix = matrices_[m];
      rank += matrix.rank;
      double plain = 0, seen = 0;  // the worst group
      for (size_t g = 0; g < limits_.groups; ++g) {
        plain = std::max(plain, PlainLoss(matrix.subspaces[g], matrix.weights[g], c_.hidden, matrix.rank));
        seen = std::max(seen, TailShare(matrix.subspaces[g], matrix.rank));
      }
      std::printf("%5zu  %-4s  %13u  %17.2f%%", m / 2, m % 2 == 0 ? "k" : "v", matrix.rank, 100 * plain);
      if (whitened) std::printf("  %24.2f%%", 100 * seen);
      std::printf("\n");
    }
    const uint64_t full = uint64_t{limits_.full} * matrices_.size();
    std::printf("%.1f %% of all ranks kept: %llu numbers for a token in place of %llu; factors of %.2f MiB in fp32\n",
                100 * static_cast<double>(rank) / static_cast<double>(full),
                static_cast<unsigned long long>(rank * limits_.groups),
                static_cast<unsigned long long>(full * limits_.groups),
                static_cast<double>(rank * limits_.groups * limits_.full * 4) / (1 << 20));
  }

 private:
  /// [groups][heads of a group][rank][head_dim] from vectors [rank][heads of a group * head_dim].
  std::vector<float> Factors(const Matrix& matrix) const {
    const size_t dim = c_.head_dim;
    std::vector<float> out;
    for (const Subspace& subspace : matrix.subspaces) {
      const std::vector<double> rows =
          absl::GetFlag(FLAGS_rotate)
              ? Rotated(subspace, matrix.rank, kvg::LatentSplit(matrix.rank))
              : std::vector<double>(subspace.vectors.begin(),
                                    subspace.vectors.begin() + static_cast<long>(matrix.rank * limits_.full));
      for (size_t h = 0; h < group_; ++h) {
        for (size_t r = 0; r < matrix.rank; ++r) {
          for (size_t d = 0; d < dim; ++d) {
            out.push_back(static_cast<float>(rows[r * limits_.full + h * dim + d]));
          }
        }
      }
    }
    return out;
  }

  demo::Model& model_;
  const demo::ModelConfig& c_;
  demo::ThreadPool& pool_;
  uint32_t group_ = 0;
  RankLimits limits_;
  std::vector<Matrix> matrices_;  // [layers][k, v]
};

}  // namespace

void RunLatent() {
  if (absl::GetFlag(FLAGS_model).empty()) Refuse("--model=DIR is needed: a checkpoint.");
  const std::string out = absl::GetFlag(FLAGS_out);
  if (out.empty()) Refuse("--out=FILE is needed: where the plan file goes.");
  demo::ThreadPool pool(Threads());
  demo::Model model(absl::GetFlag(FLAGS_model), pool);
  const std::vector<std::string> prompts = Prompts();
  if (!prompts.empty() && model.config().vocab != 256) {
    Refuse("--calibrate needs a model whose tokens are the 256 bytes; leave it out for a plain plan.");
  }
  Planner planner(model, pool);
  planner.Decompose(prompts.empty() ? Inputs() : Record(model, pool, prompts));
  planner.Allocate();
  planner.Write(out);
  planner.Report(!prompts.empty());
}

}  // namespace kvgplan
