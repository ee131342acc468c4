// Making, writing and changing of toy checkpoints.
#include "toy_checkpoint.h"

#include <stdlib.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

#include "half.h"

namespace demo {
namespace {

using nlohmann::json;

std::string Bytes(const ToyTensor& tensor, const std::string& dtype) {
  std::string out;
  for (const float value : tensor.values) {
    uint32_t bits = std::bit_cast<uint32_t>(value);
    size_t count = 4;
    if (dtype != "F32") {
      bits = dtype == "F16" ? FloatToHalf(value) : bits >> 16;
      count = 2;
    }
    for (size_t i = 0; i < count; ++i) out += static_cast<char>(bits >> (8 * i) & 0xFF);
  }
  return out;
}

}  // namespace

ToyModel MakeToy(const ToyShape& s) {
  ToyModel model;
  model.config = {{"model_type", s.model_type},
                  {"vocab_size", s.vocab},
                  {"hidden_size", s.hidden},
                  {"intermediate_size", s.intermediate},
                  {"num_hidden_layers", s.layers},
                  {"num_attention_heads", s.q_heads},
                  {"num_key_value_heads", s.kv_heads},
                  {"head_dim", s.head_dim},
                  {"rms_norm_eps", 1e-5},
                  {"rope_theta", 10000.0},
                  {"max_position_embeddings", 4096},
                  {"tie_word_embeddings", s.tied},
                  {"hidden_act", "silu"}};
  std::mt19937 random(s.seed);
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape, float middle,
                       double spread) {
    ToyTensor tensor;
    uint64_t count = 1;
    for (const uint64_t n : shape) count *= n;
    // Few bits, so that bf16 and f16 hold the numbers exactly.
    const double step = std::exp2(std::round(std::log2(spread / 16)));
    for (uint64_t i = 0; i < count; ++i) {
      const int k = static_cast<int>(random() % 65) - 32;
      tensor.values.push_back(middle + static_cast<float>(k * step));
    }
    tensor.shape = std::move(shape);
    model.tensors[name] = std::move(tensor);
  };
  const auto matrix = [&](const std::string& name, uint64_t outputs, uint64_t inputs) {
    add(name + ".weight", {outputs, inputs}, 0, 1.3 / std::sqrt(static_cast<double>(inputs)));
  };
  add("model.embed_tokens.weight", {s.vocab, s.hidden}, 0, 1);
  if (!s.tied) matrix("lm_head", s.vocab, s.hidden);
  add("model.norm.weight", {s.hidden}, 1, 0.25);
  for (uint32_t l = 0; l < s.layers; ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    add(prefix + "input_layernorm.weight", {s.hidden}, 1, 0.25);
    add(prefix + "post_attention_layernorm.weight", {s.hidden}, 1, 0.25);
    const std::pair<const char*, uint64_t> projections[] = {{"q", s.q_heads * s.head_dim},
                                                            {"k", s.kv_heads * s.head_dim},
                                                            {"v", s.kv_heads * s.head_dim}};
    for (const auto& [letter, outputs] : projections) {
      const std::string name = prefix + "self_attn." + letter + "_proj";
      matrix(name, outputs, s.hidden);
      if (s.qkv_bias) add(name + ".bias", {outputs}, 0, 0.5);
    }
    matrix(prefix + "self_attn.o_proj", s.hidden, uint64_t{s.q_heads} * s.head_dim);
    matrix(prefix + "mlp.gate_proj", s.intermediate, s.hidden);
    matrix(prefix + "mlp.up_proj", s.intermediate, s.hidden);
    matrix(prefix + "mlp.down_proj", s.hidden, s.intermediate);
  }
  return model;
}

Files ToyFiles(const ToyModel& model, const std::string& dtype, size_t shards) {
  std::vector<json> headers(shards, json::object());
  std::vector<std::string> data(shards);
  json map = json::object();
  const auto name_of = [&](size_t shard) {
    return shards == 1 ? "model.safetensors" : "model-" + std::to_string(shard) + ".safetensors";
  };
  size_t i = 0;
  for (const auto& [name, tensor] : model.tensors) {
    const size_t shard = i++ % shards;
    const size_t begin = data[shard].size();
    data[shard] += Bytes(tensor, dtype);
    headers[shard][name] = {{"dtype", dtype},
                            {"shape", tensor.shape},
                            {"data_offsets", {begin, data[shard].size()}}};
    map[name] = name_of(shard);
  }
  Files files = {{"config.json", model.config.dump(1)}};
  for (size_t s = 0; s < shards; ++s) files[name_of(s)] = Safetensors(headers[s].dump(), data[s]);
  if (shards > 1) {
    files["model.safetensors.index.json"] = json({{"metadata", {}}, {"weight_map", map}}).dump();
  }
  return files;
}

std::string Safetensors(const std::string& header, const std::string& data) {
  std::string out;
  for (size_t i = 0; i < 8; ++i) out += static_cast<char>(header.size() >> (8 * i) & 0xFF);
  return out + header + data;
}

void EditConfig(Files& files, const std::function<void(json&)>& edit) {
  json config = json::parse(files.at("config.json"));
  edit(config);
  files["config.json"] = config.dump();
}

void EditTensors(Files& files, const std::function<void(json&, std::string&)>& edit) {
  const std::string& file = files.at("model.safetensors");
  size_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(file[i]);
  json header = json::parse(file.substr(8, length));
  std::string data = file.substr(8 + length);
  edit(header, data);
  files["model.safetensors"] = Safetensors(header.dump(), data);
}

TestFolder::TestFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "kvgear-demo-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TestFolder::Fill(const Files& files) {
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    std::filesystem::remove_all(entry.path());
  }
  for (const auto& [name, content] : files) {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
}

}  // namespace demo
