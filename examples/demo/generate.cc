// Prefill, then one token after the other.
#include "generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <span>

#include "compressed_store.h"
#include "decode.h"
#include "fingerprint.h"
#include "prefill.h"
#include "refusal.h"

namespace demo {
namespace {

uint32_t PickToken(const float* logits, size_t vocab, double temperature, std::mt19937_64& random) {
  const float* top = std::max_element(logits, logits + vocab);
  if (!std::isfinite(*top)) {
    Refuse("The model computes infinity or something that is no number.");
  }
  if (temperature <= 0) return static_cast<uint32_t>(top - logits);
  std::vector<double> weights(vocab);
  for (size_t i = 0; i < vocab; ++i) weights[i] = std::exp((logits[i] - *top) / temperature);
  return std::discrete_distribution<uint32_t>(weights.begin(), weights.end())(random);
}

}  // namespace

std::string Generate(Model& model, ThreadPool& pool, const Generation& generation,
                     const std::function<void(uint32_t)>& emit) {
  const std::vector<uint32_t>& prompt = generation.prompt;
  const size_t positions = model.config().max_positions;
  if (prompt.size() >= positions) {
    Refuse("The prompt has ", prompt.size(), " tokens; the model's ", positions,
           " positions leave no room for an answer.");
  }
  CompressedStore store(
      MakeRuntime(static_cast<uint32_t>(pool.threads() - 1), generation.device),
      MakePlan(model.config(), generation.recipe, Fingerprint(model)), generation.device);
  if (prompt.size() > 1) {
    const auto tokens = std::span(prompt).first(prompt.size() - 1);
    if (store.prunes()) {
      store.ReadPrompt(model, pool, tokens);
    } else {
      store.AppendPrompt(Prefill(model, pool, tokens));
    }
  }
  Decoder decoder(model, pool);
  std::vector<Lane> lanes = {{&store, prompt.back(), prompt.size() - 1}};
  std::mt19937_64 random(generation.seed);
  const size_t count = std::min(generation.max_tokens, positions - prompt.size());
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < count; ++i) {
    const float* logits = decoder.Step(lanes);
    lanes[0].token = PickToken(logits, model.config().vocab, generation.temperature, random);
    emit(lanes[0].token);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const kvg_stats stats = store.Stats();
  char line[200];
  std::snprintf(line, sizeof(line),
                "%.0f tokens/s; the cache holds %llu tokens in %.0f KiB, %.2f bits per element, "
                "%.2f times smaller than fp16",
                static_cast<double>(count) / seconds,
                static_cast<unsigned long long>(lanes[0].position),
                static_cast<double>(stats.bytes_total) / 1024, stats.bits_per_element,
                static_cast<double>(stats.bytes_fp16) / static_cast<double>(stats.bytes_total));
  return generation.recipe + ": " + line;
}

}  // namespace demo
