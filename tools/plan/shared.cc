// See shared.h.
#include "shared.h"

#include <algorithm>
#include <thread>

#include "absl/flags/flag.h"
#include "fingerprint.h"
#include "refusal.h"

ABSL_FLAG(std::string, model, "", "checkpoint: config.json and model.safetensors");
ABSL_FLAG(std::vector<std::string>, calibrate, {}, "files to measure on: text, or exams (*.jsonl)");
ABSL_FLAG(uint32_t, max_items, 0,
          "most exams of a kind, and windows of a text (0: all; for latent 4)");
ABSL_FLAG(uint32_t, threads, 0, "threads that work (0: as many as the machine has)");
ABSL_FLAG(std::string, out, "", "the plan file to write");

namespace kvgplan {

unsigned Threads() {
  const uint32_t asked = absl::GetFlag(FLAGS_threads);
  return asked > 0 ? asked : std::clamp(std::thread::hardware_concurrency(), 1u, 256u);
}

bool HoldsExams(const std::string& file) {
  constexpr const char kEnd[] = ".jsonl";
  constexpr size_t kLength = sizeof(kEnd) - 1;
  return file.size() > kLength && file.compare(file.size() - kLength, kLength, kEnd) == 0;
}

kvg::PlanWriter BeginPlan(const demo::Model& model, const std::string& recipes) {
  const demo::ModelConfig& c = model.config();
  kvg::PlanWriter writer({c.layers, c.q_heads, c.kv_heads, c.head_dim});
  writer.Text("recipes", recipes);
  writer.Text("fingerprint", demo::Fingerprint(model));
  return writer;
}

void EndPlan(const kvg::PlanWriter& writer, const std::string& file) {
  if (const absl::Status status = writer.Write(file); !status.ok()) {
    demo::Refuse(std::string(status.message()), ".");
  }
}

}  // namespace kvgplan
