// Every question is read once in full precision; then each recipe compresses what was read, and all
// of them decode side by side, one lane per recipe.
#include "evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <span>
#include <utility>

#include "compressed_store.h"
#include "decode.h"
#include "fingerprint.h"
#include "prefill.h"
#include "progress.h"
#include "refusal.h"

namespace demo {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// One question as tokens: the first `prompt` are read at once, and from there on the next token is
/// predicted from the compressed cache at every position.
struct Sequence {
  std::vector<uint32_t> tokens;
  size_t prompt = 0;
  size_t first_scored = 0;  // the first token whose prediction counts
  std::string kind;         // of the exam; empty for a window of the text
};

std::vector<Sequence> MakeSequences(const Questions& questions, size_t positions) {
  std::vector<Sequence> out;
  // The last token of a prompt is read from the compressed cache too, so that the whole answer
  // comes from it.
  for (const Exam& exam : questions.exams) {
    Sequence s;
    s.tokens = Tokens(exam.prompt + exam.answer);
    s.first_scored = exam.prompt.size();
    s.prompt = s.first_scored - 1;
    s.kind = exam.kind;
    if (s.tokens.size() > positions) {
      Refuse("An exam of kind '", Shown(exam.kind), "' has ", s.tokens.size(),
             " bytes, more than the model's ", positions, " positions.");
    }
    out.push_back(std::move(s));
  }
  for (const std::string& window : questions.windows) {
    Sequence s;
    s.tokens = Tokens(window);
    if (s.tokens.size() < 16) Refuse("The text is shorter than 16 bytes.");
    if (s.tokens.size() > positions) s.tokens.resize(positions);
    // Of a text that is shorter than a window the last ninth is scored, as of a whole window.
    s.first_scored = s.tokens.size() * kWindowPrompt / (kWindowPrompt + kWindowScored);
    s.prompt = s.first_scored - 1;
    out.push_back(std::move(s));
  }
  return out;
}

/// log softmax in double precision.
void LogProbabilities(const float* logits, size_t count, std::vector<double>& out) {
  out.assign(logits, logits + count);
  const double most = *std::max_element(out.begin(), out.end());
  double sum = 0;
  for (const double v : out) sum += std::exp(v - most);
  const double shift = most + std::log(sum);
  for (double& v : out) v -= shift;
  if (!std::isfinite(shift)) {
    Refuse("The model computes infinity or something that is no number; its weights do not fit ",
           "this decoder.");
  }
}

size_t Top(const float* logits, size_t count) {
  return static_cast<size_t>(std::max_element(logits, logits + count) - logits);
}

class Evaluation {
 public:
  Evaluation(Model& model, ThreadPool& pool, const std::vector<std::string>& recipes,
             DevicePtr device)
      : model_(model),
        pool_(pool),
        decoder_(model, pool),
        results_(recipes.size()),
        device_(std::move(device)) {
    for (size_t r = 0; r < recipes.size(); ++r) {
      results_[r].recipe = WithoutFile(recipes[r]);
      const bool from_file = results_[r].recipe != recipes[r];
      plans_.push_back(
          MakePlan(model.config(), recipes[r], from_file ? Fingerprint(model) : std::string()));
    }
  }

  std::vector<Result> Run(const Questions& questions, Speed speed) {
    const std::vector<Sequence> sequences =
        MakeSequences(questions, model_.config().max_positions);
    size_t prompt_tokens = 0;
    size_t steps = 0;
    for (const Sequence& s : sequences) {
      prompt_tokens += s.prompt;
      steps += s.tokens.size() - 1 - s.prompt;
    }
    // Of the speed: a step of each recipe takes about as long as one of all recipes together.
    const bool timed = speed == Speed::kMeasured;
    Progress progress(prompt_tokens, steps + (timed ? kTurns * (1 + kTurnTokens) : 0));
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = sequences[i];
      RunSequence(s, Text(s.kind.empty() ? "text" : s.kind, ", ", i + 1, " of ", sequences.size()),
                  progress);
    }
    if (!timed) return std::move(results_);
    // The speed is taken on the longest question.
    const auto longest = std::max_element(
        sequences.begin(), sequences.end(),
        [](const Sequence& a, const Sequence& b) { return a.prompt < b.prompt; });
    MeasureSpeed(*longest, progress);
    return std::move(results_);
  }

 private:
  using Stores = std::vector<std::unique_ptr<CompressedStore>>;

  /// A cache per recipe, holding the same prompt.
  Stores Compress(const RuntimePtr& runtime, const Sequence& s) {
    const std::vector<KvRows> prompt = Read(s);
    Stores stores(plans_.size());
    pool_.Run(plans_.size(), [&](size_t r, size_t) {
      stores[r] = std::make_unique<CompressedStore>(runtime, plans_[r], device_);
      if (!stores[r]->prunes()) stores[r]->AppendPrompt(prompt);
    });
    for (const auto& store : stores) {
      if (store->prunes()) store->ReadPrompt(model_, pool_, std::span(s.tokens).first(s.prompt));
    }
    return stores;
  }

  std::vector<KvRows> Read(const Sequence& s) {
    return Prefill(model_, pool_, std::span(s.tokens).first(s.prompt));
  }

  void RunSequence(const Sequence& s, const std::string& words, Progress& progress) {
    progress.Show(words);
    const Clock::time_point start = Clock::now();
    const Stores stores = Compress(lanes_runtime_, s);
    progress.DonePrompt(s.prompt, Since(start));

    std::vector<Lane> lanes;
    for (const auto& store : stores) lanes.push_back({store.get(), 0, s.prompt});
    // Greedy decoding gives the right answer exactly if the right token is on top at every
    // position of it while the tokens before are the right ones. So one pass over the right answer
    // yields both the score and the divergence.
    std::vector<char> right(lanes.size(), 1);
    for (size_t t = s.prompt; t + 1 < s.tokens.size(); ++t) {
      const Clock::time_point step = Clock::now();
      for (Lane& lane : lanes) lane.token = s.tokens[t];
      const float* logits = decoder_.Step(lanes);
      if (t + 1 >= s.first_scored) ScorePosition(s, s.tokens[t + 1], logits, right);
      progress.DoneSteps(1, Since(step));
      progress.Show(words);
    }
    for (size_t r = 0; r < stores.size(); ++r) {
      if (!s.kind.empty()) {
        Score& score = results_[r].exams[s.kind];
        ++score.tried;
        score.right += right[r] != 0;
      }
      AddStats(stores[r]->Stats(), results_[r]);
    }
  }

  void ScorePosition(const Sequence& s, uint32_t truth, const float* logits,
                     std::vector<char>& right) {
    const size_t vocab = model_.config().vocab;
    LogProbabilities(logits, vocab, exact_);
    const size_t exact_top = Top(logits, vocab);
    for (size_t r = 0; r < results_.size(); ++r, logits += vocab) {
      const size_t top = Top(logits, vocab);
      right[r] = right[r] && top == truth;
      double divergence = 0;
      if (r > 0) {
        LogProbabilities(logits, vocab, approximate_);
        for (size_t i = 0; i < vocab; ++i) {
          divergence += std::exp(exact_[i]) * (exact_[i] - approximate_[i]);
        }
        divergence = std::max(divergence, 0.0);  // below zero only by rounding
      }
      if (s.kind.empty()) {
        results_[r].text.Add(divergence, top == exact_top);
      } else {
        results_[r].answers.Add(divergence, top == exact_top);
        results_[r].exams[s.kind].answers.Add(divergence, top == exact_top);
      }
    }
  }

  static void AddStats(const kvg_stats& stats, Result& result) {
    ++result.sequences;
    result.bytes += stats.bytes_total;
    result.plan_bytes = stats.bytes_plan;
    // Of all tokens that came, those included that were evicted.
    const uint64_t elements = stats.elements / stats.tokens * stats.tokens_appended;
    result.elements += elements;
    result.fp16_bytes += elements * sizeof(uint16_t);
    result.tokens += stats.tokens_appended;
    result.kept += stats.tokens;
    const double sealed = static_cast<double>(stats.sealed_elements);
    result.sealed += sealed;
    result.error_k_sum += stats.rel_error_k_mean * sealed;
    result.error_v_sum += stats.rel_error_v_mean * sealed;
  }

  static constexpr size_t kTurns = 4;
  static constexpr size_t kTurnTokens = 12;

  /// Decodes one text at a time, with all threads working on it. The recipes take turns, and the
  /// best of their turns counts, so that a busy moment of the machine does not fall on one of them.
  void MeasureSpeed(const Sequence& s, Progress& progress) {
    const RuntimePtr runtime = MakeRuntime(static_cast<uint32_t>(pool_.threads() - 1), device_);
    const Stores stores = Compress(runtime, s);
    std::vector<std::vector<Lane>> lanes;
    for (const auto& store : stores) lanes.push_back({{store.get(), s.tokens[s.prompt], s.prompt}});
    for (size_t turn = 0; turn < kTurns; ++turn) {
      const Clock::time_point begin = Clock::now();
      progress.Show(Text("speed, turn ", turn + 1, " of ", kTurns));
      for (size_t r = 0; r < stores.size(); ++r) {
        Decoder decoder(model_, pool_);
        decoder.Step(lanes[r]);  // warms the caches of the processor
        const double attention_before = decoder.attention_seconds();
        const Clock::time_point start = Clock::now();
        for (size_t i = 0; i < kTurnTokens; ++i) decoder.Step(lanes[r]);
        const double seconds = Since(start);
        const double count = static_cast<double>(kTurnTokens);
        const double attention = 1000 * (decoder.attention_seconds() - attention_before) / count;
        Result& result = results_[r];
        result.decode_tokens_per_s = std::max(result.decode_tokens_per_s, count / seconds);
        result.attention_ms = turn == 0 ? attention : std::min(result.attention_ms, attention);
      }
      progress.DoneSteps(1 + kTurnTokens, Since(begin));
    }
  }

  Model& model_;
  ThreadPool& pool_;
  Decoder decoder_;
  std::vector<PlanPtr> plans_;
  std::vector<Result> results_;
  std::vector<double> exact_, approximate_;
  const DevicePtr device_;
  // Lanes are shared out over the demo's own threads, so kvgear needs none for them.
  const RuntimePtr lanes_runtime_ = MakeRuntime(0, device_);
};

}  // namespace

double Divergence::percentile_99() const {
  if (values.empty()) return 0;
  std::vector<float> sorted = values;
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() * 99 + 99) / 100 - 1);
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at;
}

Score Result::all_exams() const {
  Score all;
  for (const auto& [kind, score] : exams) {
    all.right += score.right;
    all.tried += score.tried;
  }
  return all;
}

std::vector<Result> Evaluate(Model& model, ThreadPool& pool, const std::vector<std::string>& recipes,
                             const Questions& questions, Speed speed, const DevicePtr& device) {
  return Evaluation(model, pool, recipes, device).Run(questions, speed);
}

}  // namespace demo
