// Tuning: measure what each width costs in each place, choose by dynamic programming, and check the
// choice on questions that it was not made on. The model under test is the demo's decoder, which sees
// kvgear through its public C interface alone.
#include "tune.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <random>
#include <vector>

#include "absl/flags/flag.h"
#include "choose.h"
#include "compressed_store.h"
#include "evaluate.h"
#include "exams.h"
#include "files.h"
#include "half.h"
#include "model.h"
#include "plot.h"
#include "png.h"
#include "refusal.h"
#include "report.h"
#include "shared.h"
#include "threads.h"

ABSL_FLAG(double, bits, 0, "tune: bits per element of a cache of --tokens, everything counted");
ABSL_FLAG(double, max_kl, 0, "tune: mean divergence from the fp16 cache, in nats");
ABSL_FLAG(uint64_t, max_memory, 0, "tune: bytes that a cache of --tokens may take");
ABSL_FLAG(uint64_t, tokens, 0,
          "tune: length of a cache for --bits and --max_memory (0: the longest question)");
ABSL_FLAG(std::string, json, "", "tune: what was measured, as JSON");
ABSL_FLAG(std::string, plot, "", "tune: picture to FILE.svg and FILE.png");

namespace kvgplan {
namespace {

using demo::Refuse;
using demo::Result;

// ------------------------------------------------------------------- candidates

/// What a side of a layer may be: settings over the recipe kBase.
struct Candidate {
  char side;
  const char* settings;
};

constexpr const char* kBase = "tc-3";

// Keys rotated, of one width; values in the basis that they learn, of a mean width. The widest are there
// so that a bound on the divergence can always be kept.
constexpr Candidate kCandidates[] = {
    {'k', "k.bits=1"},   {'k', "k.bits=2"},  {'k', "k.bits=3"},   {'k', "k.bits=4"},
    {'k', "k.bits=6"},   {'k', "k.bits=8"},  {'k', "k.bits=16"},  {'v', "v.rate=0.25"},
    {'v', "v.rate=0.5"}, {'v', "v.rate=1"},  {'v', "v.rate=1.5"}, {'v', "v.rate=2"},
    {'v', "v.rate=3"},   {'v', "v.rate=4"},  {'v', "v.rate=6"},   {'v', "v.bits=16"},
};

std::vector<const char*> CandidatesOf(char side) {
  std::vector<const char*> out;
  for (const Candidate& c : kCandidates) {
    if (c.side == side) out.push_back(c.settings);
  }
  return out;
}

std::string LayerRecipe(const std::string& k, const std::string& v) {
  if (k == "k.bits=16" && v == "v.bits=16") return "fp16";
  return std::string(kBase) + "," + k + "," + v;
}

/// Everything in fp16 but one side of one layer.
std::string OnePlace(uint32_t layer, const Candidate& candidate) {
  const bool key = candidate.side == 'k';
  return demo::Text("fp16;", layer, ":",
                    LayerRecipe(key ? candidate.settings : "k.bits=16",
                                key ? "v.bits=16" : candidate.settings));
}

/// Places are layer 0's keys, layer 0's values, layer 1's keys and so on.
std::string PlanText(const Choice& choice) {
  const std::vector<const char*> keys = CandidatesOf('k'), values = CandidatesOf('v');
  std::vector<std::string> layers;
  for (size_t p = 0; p < choice.options.size(); p += 2) {
    layers.push_back(LayerRecipe(keys[choice.options[p]], values[choice.options[p + 1]]));
  }
  std::string most;  // the most frequent recipe is that of all layers, the others follow
  for (const std::string& l : layers) {
    if (std::count(layers.begin(), layers.end(), l) > std::count(layers.begin(), layers.end(), most)) {
      most = l;
    }
  }
  std::string text = most;
  for (size_t begin = 0; begin < layers.size();) {
    size_t end = begin + 1;
    while (end < layers.size() && layers[end] == layers[begin]) ++end;
    if (layers[begin] != most) {
      text += demo::Text(";", begin, end > begin + 1 ? demo::Text("-", end - 1) : "", ":", layers[begin]);
    }
    begin = end;
  }
  return text;
}

// -------------------------------------------------------------------- questions

/// Every second item is for choosing, the others for checking.
struct Split {
  demo::Questions choose, check;
  uint64_t longest = 0;  // in tokens
};

Split ReadQuestions(const std::vector<std::string>& files, uint32_t most) {
  Split split;
  for (const std::string& file : files) {
    if (HoldsExams(file)) {
      std::map<std::string, size_t> seen;
      for (demo::Exam& exam : demo::ChooseExams(demo::ReadExams(file), most, 0)) {
        split.longest = std::max<uint64_t>(split.longest, exam.prompt.size() + exam.answer.size());
        (seen[exam.kind]++ % 2 == 0 ? split.choose : split.check).exams.push_back(std::move(exam));
      }
    } else {
      size_t i = 0;
      for (std::string& window : demo::ChooseWindows(
               demo::ReadWholeFile(file), demo::kWindowPrompt + demo::kWindowScored, most, 0)) {
        split.longest = std::max<uint64_t>(split.longest, window.size());
        (i++ % 2 == 0 ? split.choose : split.check).windows.push_back(std::move(window));
      }
    }
  }
  if (split.check.exams.empty() && split.check.windows.empty()) {
    Refuse("--calibrate needs two windows of ", demo::kWindowPrompt + demo::kWindowScored,
           " bytes of text, or two exams of a kind: one to choose by, one to check.");
  }
  return split;
}

/// The mean over the text and each kind of exam of their mean divergence: a kind that suffers is not
/// hidden by many that do not.
double Damage(const Result& result) {
  double sum = 0;
  size_t groups = 0;
  if (result.text.positions > 0) {
    sum += result.text.mean();
    ++groups;
  }
  for (const auto& [kind, score] : result.exams) {
    sum += score.answers.mean();
    ++groups;
  }
  return sum / static_cast<double>(groups);
}

// ------------------------------------------------------------------ sensitivity

constexpr uint32_t kLayersAtOnce = 4;

/// By place and candidate: bits per element of the whole cache, and damage.
std::vector<std::vector<Option>> Measure(demo::Model& model, demo::ThreadPool& pool,
                                         const demo::Questions& questions) {
  const uint32_t layers = model.config().layers;
  std::vector<std::vector<Option>> places(2 * layers);
  for (uint32_t begin = 0; begin < layers; begin += kLayersAtOnce) {
    const uint32_t end = std::min(layers, begin + kLayersAtOnce);
    std::fprintf(stderr, "sensitivity of layers %u to %u of %u\n", begin, end - 1, layers);
    std::vector<std::string> plans = {"fp16"};
    for (uint32_t layer = begin; layer < end; ++layer) {
      for (const Candidate& candidate : kCandidates) plans.push_back(OnePlace(layer, candidate));
    }
    const std::vector<Result> results =
        Evaluate(model, pool, plans, questions, demo::Speed::kLeftOut);
    const double whole = results.front().bits_per_element();
    size_t r = 1;
    for (uint32_t layer = begin; layer < end; ++layer) {
      for (const Candidate& candidate : kCandidates) {
        const Result& result = results[r++];
        // What this side takes is its share of an fp16 cache, less what was saved.
        const double share = whole / static_cast<double>(places.size());
        places[2 * layer + (candidate.side == 'v')].push_back(
            {share - (whole - result.bits_per_element()), Damage(result)});
      }
    }
  }
  return places;
}

// -------------------------------------------------------------------- the target

/// Bytes of a cache of `tokens`, filled with noise: with these recipes they depend on the number of
/// tokens alone.
uint64_t BytesAt(const demo::ModelConfig& config, const std::string& plan, uint64_t tokens) {
  demo::CompressedStore store(demo::MakeRuntime(0), demo::MakePlan(config, plan));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  constexpr uint64_t kAtOnce = 4096;
  const size_t width = config.kv_heads * config.head_dim;
  std::vector<uint16_t> rows(std::min(tokens, kAtOnce) * width);
  for (uint16_t& value : rows) value = demo::FloatToHalf(normal(random));
  for (uint64_t begin = 0; begin < tokens; begin += kAtOnce) {
    const auto count = static_cast<size_t>(std::min(kAtOnce, tokens - begin));
    for (uint32_t layer = 0; layer < config.layers; ++layer) {
      store.Append(layer, rows.data(), rows.data(), count);
    }
  }
  return store.Stats().bytes_total;
}

struct Target {
  std::string words;
  double bits = 0;  // one of these three is not 0
  double max_kl = 0;
  uint64_t max_memory = 0;
  uint64_t tokens = 0;
};

/// `longest`: of the questions, in tokens.
Target ReadTarget(uint64_t longest) {
  Target t;
  t.bits = absl::GetFlag(FLAGS_bits);
  t.max_kl = absl::GetFlag(FLAGS_max_kl);
  t.max_memory = absl::GetFlag(FLAGS_max_memory);
  t.tokens = absl::GetFlag(FLAGS_tokens);
  if ((t.bits != 0) + (t.max_kl != 0) + (t.max_memory != 0) != 1) {
    Refuse("Say what you want with one of --bits=B, --max_kl=X, or --max_memory=BYTES --tokens=N.");
  }
  if (!(t.bits >= 0 && t.bits <= 32)) Refuse("--bits needs a number above 0, up to 32.");
  if (!(t.max_kl >= 0) || !std::isfinite(t.max_kl)) Refuse("--max_kl needs a number above 0.");
  if (t.max_memory != 0 && t.tokens == 0) Refuse("--max_memory needs --tokens=N: for how many tokens?");
  if (t.tokens == 0) t.tokens = longest;
  if (t.bits != 0) t.words = demo::Text(t.bits, " bits per element at ", t.tokens, " tokens");
  if (t.max_kl != 0) t.words = demo::Text("a divergence of ", t.max_kl);
  if (t.max_memory != 0) t.words = demo::Text(t.max_memory, " bytes for ", t.tokens, " tokens");
  return t;
}

double Elements(const demo::ModelConfig& config, uint64_t tokens) {
  return 2.0 * config.layers * config.kv_heads * config.head_dim * static_cast<double>(tokens);
}

/// The best of `choices` whose cache of so many tokens fits into `bytes`, or the cheapest.
const Choice& BestInMemory(const demo::ModelConfig& config, const std::vector<Choice>& choices,
                           uint64_t tokens, double bytes) {
  size_t fits = 0, end = choices.size();
  while (end - fits > 1) {
    const size_t middle = fits + (end - fits) / 2;
    const uint64_t taken = BytesAt(config, PlanText(choices[middle]), tokens);
    (static_cast<double>(taken) <= bytes ? fits : end) = middle;
  }
  return choices[fits];
}

const Choice& RequireFit(const demo::ModelConfig& config, const Choice& choice, const Target& target,
                         double bytes) {
  const uint64_t taken = BytesAt(config, PlanText(choice), target.tokens);
  if (static_cast<double>(taken) <= bytes) return choice;
  Refuse("The least plan takes ", taken, " bytes or ",
         8 * static_cast<double>(taken) / Elements(config, target.tokens), " bits per element for ",
         target.tokens, " tokens, more than ", target.words,
         ": allow more, or keep fewer tokens (select=).");
}

/// The sum over places is a forecast; where the plan as a whole does more on the questions it was chosen
/// by, the forecast is held to less.
Choice KeptUnder(demo::Model& model, demo::ThreadPool& pool, const demo::Questions& questions,
                 const std::vector<Choice>& choices, double most) {
  double asked = most;
  for (int turn = 0; turn < 6; ++turn) {
    const Choice& choice = CheapestUnder(choices, asked);
    const std::vector<Result> results =
        Evaluate(model, pool, {"fp16", PlanText(choice)}, questions, demo::Speed::kLeftOut);
    const double damage = Damage(results[1]);
    std::fprintf(stderr, "forecast %.3g, measured %.3g\n", choice.damage, damage);
    if (damage <= most) return choice;
    asked = std::min(asked, choice.damage) * std::clamp(most / damage, 0.2, 0.9);
  }
  Refuse("No plan was found that keeps the divergence under ", most,
         " on the calibration data; allow more.");
}

// ------------------------------------------------------------------------ report

constexpr double kCurve[] = {2.5, 3, 3.5, 4, 5, 6};

std::string Name(double bits) {
  char text[32];
  std::snprintf(text, sizeof(text), "tuned-%.2f", bits);
  return text;
}

std::vector<std::string> CodecNames() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < kvg_recipe_count(); ++i) {
    if (std::string(kvg_recipe_name(i)) != "fp16") names.emplace_back(kvg_recipe_name(i));
  }
  return names;
}

/// The named recipe of least damage among those that take no more than `bits`, half a percent aside.
const Result* BestNamed(const std::vector<Result>& results, size_t begin, double bits) {
  const Result* best = nullptr;
  for (size_t r = begin; r < results.size(); ++r) {
    if (results[r].bits_per_element() > 1.005 * bits) continue;
    if (best == nullptr || Damage(results[r]) < Damage(*best)) best = &results[r];
  }
  return best;
}

void Report(demo::Model& model, demo::ThreadPool& pool, const demo::Questions& check,
            const std::vector<Choice>& choices, const Choice& chosen, uint64_t tokens) {
  std::vector<Choice> shown = {chosen};
  for (const double bits : kCurve) {
    shown.push_back(BestInMemory(model.config(), choices, tokens,
                                 bits / 8 * Elements(model.config(), tokens)));
  }
  std::vector<std::string> plans = {"fp16"};
  for (const Choice& choice : shown) plans.push_back(PlanText(choice));
  const size_t named = plans.size();
  for (const std::string& name : CodecNames()) plans.push_back(name);

  std::fprintf(stderr, "check on what was not tuned on\n");
  std::vector<Result> results = Evaluate(model, pool, plans, check, demo::Speed::kLeftOut);
  std::printf("%-12s %9s %10s %10s  %s\n", "plan", "bits/el", "forecast", "measured",
              "best named recipe of no more bytes");
  for (size_t i = 0; i < shown.size(); ++i) {
    Result& r = results[1 + i];
    const Result* best = BestNamed(results, named, r.bits_per_element());
    std::printf("%-12s %9.3f %10.2e %10.2e  %s\n", i == 0 ? "tuned" : Name(kCurve[i - 1]).c_str(),
                r.bits_per_element(), shown[i].damage, Damage(r),
                best == nullptr ? "none"
                                : demo::Text(best->recipe, ": ", Damage(*best), ", ",
                                             Damage(*best) / Damage(r), " times as much").c_str());
    r.recipe = i == 0 ? "tuned" : Name(kCurve[i - 1]);
  }
  std::printf("\n%s", TableText(results).c_str());
  if (const std::string file = absl::GetFlag(FLAGS_json); !file.empty()) {
    demo::WriteWholeFile(file, JsonText(results));
  }
  if (const std::string file = absl::GetFlag(FLAGS_plot); !file.empty()) {
    demo::WriteWholeFile(file + ".svg", PictureSvg(results, "tuned plans beside the named recipes"));
    demo::ConvertToPng(file + ".svg", file + ".png");
  }
}

}  // namespace

void RunTune() {
  if (absl::GetFlag(FLAGS_model).empty()) Refuse("Say which model with --model=DIR.");
  if (absl::GetFlag(FLAGS_calibrate).empty()) Refuse("Say what to tune on with --calibrate=FILE,...");
  if (!absl::GetFlag(FLAGS_plot).empty()) demo::RequireConverter();
  const Split questions =
      ReadQuestions(absl::GetFlag(FLAGS_calibrate), absl::GetFlag(FLAGS_max_items));
  const Target target = ReadTarget(questions.longest);
  demo::ThreadPool pool(Threads());
  demo::Model model(absl::GetFlag(FLAGS_model), pool);
  if (model.config().vocab != 256) {
    Refuse("The decoder has no tokenizer, so it can tune only models whose tokens are bytes.");
  }

  const std::vector<Choice> choices = BestChoices(Measure(model, pool, questions.choose));
  const double bytes = target.bits != 0
                           ? target.bits / 8 * Elements(model.config(), target.tokens)
                           : static_cast<double>(target.max_memory);
  const Choice chosen =
      target.max_kl != 0
          ? KeptUnder(model, pool, questions.choose, choices, target.max_kl)
          : RequireFit(model.config(), BestInMemory(model.config(), choices, target.tokens, bytes),
                       target, bytes);
  const std::string plan = PlanText(chosen);
  std::printf("for %s:\n%s\n\n", target.words.c_str(), plan.c_str());
  if (const std::string file = absl::GetFlag(FLAGS_out); !file.empty()) {
    EndPlan(BeginPlan(model, plan), file);  // recipes alone, for kvg_plan_load
  }
  Report(model, pool, questions.check, choices, chosen, target.tokens);
}

}  // namespace kvgplan
