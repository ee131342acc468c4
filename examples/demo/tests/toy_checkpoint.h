// Checkpoints for tests: small, random, written by this code alone, easy to break in any way.
#ifndef KVGEAR_EXAMPLES_DEMO_TESTS_TOY_CHECKPOINT_H_
#define KVGEAR_EXAMPLES_DEMO_TESTS_TOY_CHECKPOINT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace demo {

struct ToyTensor {
  std::vector<uint64_t> shape;
  std::vector<float> values;  // exact in every floating point type
};

struct ToyModel {
  nlohmann::json config;  // of config.json
  std::map<std::string, ToyTensor> tensors;
};

struct ToyShape {
  const char* model_type = "llama";
  uint32_t vocab = 256, hidden = 48, intermediate = 40, layers = 2;
  uint32_t q_heads = 4, kv_heads = 2, head_dim = 32;
  bool tied = true, qkv_bias = false;
  uint32_t seed = 1;
};

ToyModel MakeToy(const ToyShape& shape);

/// Contents by file name.
using Files = std::map<std::string, std::string>;

/// config.json and model.safetensors, or `shards` files with an index. dtype: F32, F16 or BF16.
Files ToyFiles(const ToyModel& model, const std::string& dtype, size_t shards = 1);

/// A safetensors file of a header and data.
std::string Safetensors(const std::string& header, const std::string& data);

/// Changes config.json.
void EditConfig(Files& files, const std::function<void(nlohmann::json&)>& edit);

/// Changes the header and data of model.safetensors.
void EditTensors(Files& files, const std::function<void(nlohmann::json&, std::string&)>& edit);

/// A folder that is removed with everything in it.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  /// Replaces all that is in it.
  void Fill(const Files& files);

 private:
  std::string path_;
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_TESTS_TOY_CHECKPOINT_H_
