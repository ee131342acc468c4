// The claims, by the name that a recipe begins with, and how the lines are made.
#include "claims.h"

#include <algorithm>
#include <cstdio>

namespace demo {
namespace {

struct Claim {
  const char* recipe;
  const char* text;
};

constexpr Claim kClaims[] = {
    {"streaming-llm", "stable perplexity over 4 M tokens, memory of the window alone"},
    {"h2o", "a fifth of the cache, up to 29x throughput of offloading systems"},
    {"tova", "an eighth of the cache near the full one, 4.8x throughput"},
    {"snapkv", "8.2x less memory at prompts of 16 k, near the full cache"},
    {"pyramidkv", "12 % of the cache matches the full one on LongBench"},
    {"pyramidinfer", "45.4 % of the cache, 2.2x throughput (13 B, 512 + 256 tokens)"},
    {"zipcache", "4.98x smaller, 0.38 % less on GSM8K (7 B, 840 tokens, batch of 8, no tail)"},
    {"zipcache-requant", "the same"},
    {"palu", "half the cache at 50 %, 1.89x faster attention with RoPE (7 B, 64 k tokens)"},
    {"palu-3", "11.4x at 30 % and 2 bits, 7.6x at 3, scales not counted (7 B, 128 k tokens)"},
    {"palu-2", "the same"},
    {"lorc", "55 % of the cache, 0.47 % less on four tasks (13 B)"},
};

const Claim* ClaimOf(const std::string& recipe) {
  const std::string name = recipe.substr(0, recipe.find(','));
  const auto* found = std::find_if(std::begin(kClaims), std::end(kClaims),
                                   [&](const Claim& c) { return name == c.recipe; });
  return found == std::end(kClaims) ? nullptr : found;
}

}  // namespace

std::string ClaimsText(const std::vector<Result>& results) {
  std::string out;
  for (const Result& r : results) {
    const Claim* claim = ClaimOf(r.recipe);
    if (claim == nullptr) continue;
    const Score score = r.all_exams();
    const Score full = results.front().all_exams();
    char measured[160];
    std::snprintf(measured, sizeof(measured), "%.2fx smaller, %u of %u exams (fp16: %u)",
                  r.times_smaller(), score.right, score.tried, full.right);
    out += r.recipe + "\n    published: " + claim->text + "\n    here:      " + measured;
    if (r.plan_bytes > 0) {
      std::snprintf(measured, sizeof(measured), ", and %.2f MiB of factors for all caches together",
                    static_cast<double>(r.plan_bytes) / (1 << 20));
      out += measured;
    }
    out += "\n";
  }
  return out.empty() ? out : "\nWhat was published, on models of billions of parameters, and what was "
                             "measured here:\n\n" + out;
}

}  // namespace demo
