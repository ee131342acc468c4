// The demo with its caches on a device: a stand-in for one, whose memory is the host's, gives the
// answers of the reference kernels on the CPU; without a device the program says what is missing.
#include "device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "compressed_store.h"
#include "evaluate.h"
#include "files.h"
#include "generate.h"
#include "refusal.h"
#include "toy_checkpoint.h"

namespace demo {
namespace {

using testing::HasSubstr;

std::string WhyNot(const std::string& device) {
  try {
    MakeRuntime(0, OpenDevice(device));
  } catch (const Refusal& refusal) {
    return refusal.what();
  }
  return "";
}

TEST(Device, NamesThatAreNone) {
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:99999", "cud", "CUDA"}) {
    EXPECT_THAT(WhyNot(name), HasSubstr("--device needs")) << name;
  }
  EXPECT_EQ(OpenDevice("cpu"), nullptr);
}

TEST(DeviceThatIsNone, SaysWhatIsMissing) {
  setenv("KVGEAR_PLUGIN_PATH", "/nonexistent", 1);
  EXPECT_THAT(WhyNot("cuda"), HasSubstr("libkvgear_cuda.so was not found"));
}

// Last, for a plugin that was loaded stays.
TEST(DeviceThatIsThere, AnswersAsTheCpu) {
  setenv("KVGEAR_PLUGIN_PATH", KVG_STAND_IN_FOLDER, 1);
  setenv("KVGEAR_CPU_TARGET", "reference", 1);
  TestFolder folder;
  folder.Fill(ToyFiles(MakeToy({.intermediate = 32, .seed = 11}), "F32"));
  ThreadPool pool(3);
  Model model(folder.path(), pool);
  const DevicePtr device = OpenDevice("cuda");
  EXPECT_TRUE(Knows(MakeRuntime(0, device), model.config(), "gear-2"));
  EXPECT_FALSE(Knows(MakeRuntime(0, device), model.config(), "h2o"));
  EXPECT_TRUE(Knows(MakeRuntime(0), model.config(), "h2o"));

  std::string prompt;
  for (size_t i = 0; i < 200; ++i) prompt += static_cast<char>('a' + i * i % 23);
  const auto continuation = [&](const std::string& recipe, const DevicePtr& where) {
    std::string out;
    Generation generation{recipe, Tokens(prompt), 12, 0, 0};
    generation.device = where;
    Generate(model, pool, generation, [&](uint32_t token) { out += static_cast<char>(token); });
    return out;
  };
  for (const char* recipe : {"fp16", "gear-4"}) {
    EXPECT_EQ(continuation(recipe, device), continuation(recipe, nullptr)) << recipe;
  }

  Questions questions;
  questions.exams = {{"copy", prompt, "abc"}};
  const auto there = Evaluate(model, pool, {"fp16", "gear-2"}, questions, Speed::kLeftOut, device);
  const auto here = Evaluate(model, pool, {"fp16", "gear-2"}, questions, Speed::kLeftOut);
  for (size_t r = 0; r < here.size(); ++r) {
    EXPECT_EQ(there[r].all_exams().right, here[r].all_exams().right);
    EXPECT_EQ(there[r].elements, here[r].elements);
    EXPECT_EQ(there[r].error_k(), here[r].error_k());
    EXPECT_GT(there[r].bytes, 0u);
  }
}

}  // namespace
}  // namespace demo
