// Whatever is wrong with a checkpoint, it is refused in one sentence.
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/wait.h>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "model.h"
#include "refusal.h"
#include "threads.h"
#include "toy_checkpoint.h"

namespace demo {
namespace {

using nlohmann::json;

struct Variant {
  std::string name;
  Files files;
};

class Variants {
 public:
  explicit Variants(const Files& good) : good_(good) {}

  Files& Add(const std::string& name) {
    list_.push_back({name, good_});
    return list_.back().files;
  }
  void Config(const std::string& name, const std::function<void(json&)>& edit) {
    EditConfig(Add("config: " + name), edit);
  }
  void Set(const std::string& key, const json& value) {
    Config(key + " = " + value.dump(), [&](json& c) { c[key] = value; });
  }
  void Tensors(const std::string& name, const std::function<void(json&, std::string&)>& edit) {
    EditTensors(Add("tensors: " + name), edit);
  }
  /// Changes one entry of the header of model.safetensors.
  void Entry(const std::string& key, const json& value) {
    Tensors(key + " = " + value.dump(),
            [&](json& h, std::string&) { h["model.norm.weight"][key] = value; });
  }
  const std::vector<Variant>& list() const { return list_; }

 private:
  Files good_;
  std::vector<Variant> list_;
};

Files GoodFiles() { return ToyFiles(MakeToy({.layers = 1}), "F16"); }

void AddConfigs(Variants& v) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_key_value_heads", "head_dim"}) {
    for (const json& value : {json(0), json(-1), json(1.5), json("8"), json(true), json::array(),
                              json::object(), json(1e30), json(uint64_t{1} << 40)}) {
      v.Set(key, value);
    }
    // One more or one less than the weights have.
    v.Config(std::string(key) + " + 1", [&](json& c) { c[key] = c[key].get<int>() + 1; });
    v.Config(std::string(key) + " doubled", [&](json& c) { c[key] = c[key].get<int>() * 2; });
  }
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "model_type"}) {
    v.Config(std::string("no ") + key, [&](json& c) { c.erase(key); });
  }
  for (const char* type : {"mistral", "gemma2", "gpt2", "mixtral", "", "Llama"}) {
    v.Set("model_type", type);
  }
  v.Set("model_type", 3);
  v.Set("hidden_act", "gelu");
  v.Set("hidden_act", 7);
  v.Set("tie_word_embeddings", "yes");
  v.Set("tie_word_embeddings", false);  // there is no lm_head
  v.Set("attention_bias", true);        // there are no biases
  v.Set("mlp_bias", true);
  v.Set("model_type", "qwen2");  // needs biases
  v.Set("use_sliding_window", true);
  v.Set("layer_types", json::array({"full_attention", "sliding_attention"}));
  v.Set("quantization_config", json({{"bits", 4}}));
  v.Set("rms_norm_eps", -1);
  v.Set("rms_norm_eps", "small");
  v.Set("rope_theta", 0);
  v.Set("rope_theta", -10000);
  v.Set("max_position_embeddings", 0);
  v.Set("partial_rotary_factor", 0.5);
  v.Set("rope_scaling", "linear");
  v.Set("rope_scaling", json({{"type", 4}}));
  for (const char* type : {"yarn", "dynamic", "longrope", "su", "nonsense"}) {
    v.Set("rope_scaling", json({{"rope_type", type}, {"factor", 2.0}}));
  }
  v.Set("rope_scaling", json({{"type", "linear"}}));
  v.Set("rope_scaling", json({{"type", "linear"}, {"factor", 0}}));
  v.Set("rope_scaling", json({{"rope_type", "llama3"}, {"factor", 8.0}}));
  v.Set("rope_scaling", json({{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 4.0},
                              {"high_freq_factor", 1.0},
                              {"original_max_position_embeddings", 8192}}));
  v.Add("config: absent").erase("config.json");
  v.Add("config: empty")["config.json"] = "";
  v.Add("config: zeros")["config.json"] = std::string(100, '\0');
  v.Add("config: a list")["config.json"] = "[1, 2]";
  v.Add("config: text")["config.json"] = "llama";
  v.Add("config: deep")["config.json"] = std::string(200'000, '[');
  v.Add("config: deep value")["config.json"] =
      "{\"model_type\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  v.Add("config: broken text")["config.json"] = "{\"model_type\": \"\xff\xfe\"}";
  std::string& cut = v.Add("config: cut")["config.json"];
  cut.resize(cut.size() / 2);
}

void AddTensors(Variants& v) {
  const Files good = GoodFiles();
  const std::string& file = good.at("model.safetensors");
  v.Add("tensors: absent").erase("model.safetensors");
  for (const size_t bytes : {0u, 1u, 7u, 8u, 9u, 100u}) {
    v.Add("tensors: only " + std::to_string(bytes) + " bytes")["model.safetensors"].resize(bytes);
  }
  for (size_t i = 1; i < 12; ++i) {
    v.Add("tensors: cut at " + std::to_string(i) + "/12")["model.safetensors"].resize(
        file.size() * i / 12);
  }
  v.Add("tensors: last byte missing")["model.safetensors"].pop_back();
  v.Add("tensors: a byte too many")["model.safetensors"] += "x";
  v.Add("tensors: long header")["model.safetensors"][3] = '\x7f';
  v.Add("tensors: endless header")["model.safetensors"][7] = '\x7f';
  v.Add("tensors: no header")["model.safetensors"].replace(0, 8, std::string(8, '\0'));
  v.Add("tensors: header is a list")["model.safetensors"] = Safetensors("[]", "");
  v.Add("tensors: header is text")["model.safetensors"] = Safetensors("hello", "");
  v.Add("tensors: header without tensors")["model.safetensors"] = Safetensors("{}", "");
  v.Add("tensors: deep header")["model.safetensors"] =
      Safetensors("{\"a\":" + std::string(100'000, '['), "");
  v.Add("tensors: twice")["model.safetensors"] =
      Safetensors("{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},"
                  "\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}",
                  "xx");
  v.Add("tensors: a pickle")["model.safetensors"] = "\x80\x02}q" + std::string(500, 'q');
  v.Add("tensors: a git-lfs pointer")["model.safetensors"] =
      "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
  json header;
  Files copy = good;
  EditTensors(copy, [&](json& h, std::string&) { header = h; });
  for (const auto& [name, entry] : header.items()) {
    const std::string removed = name;
    v.Tensors("without " + removed, [&](json& h, std::string&) {
      h["other." + removed] = h[removed];
      h.erase(removed);
    });
    v.Tensors("shape of " + removed, [&](json& h, std::string&) {
      h[removed]["shape"].push_back(1);
    });
  }
  for (const json& dtype : {json("I16"), json("U16"), json("F8_E4M3"), json("F64"), json("Q4"),
                            json(""), json(16), json()}) {
    v.Entry("dtype", dtype);
  }
  for (const json& shape :
       {json::array({-48}), json::array({48.0}), json::array({47}), json::array(), json(48),
        json::array({"48"}), json::array({UINT64_MAX, UINT64_MAX}), json(std::vector<int>(100, 1)),
        json::array({0}), json()}) {
    v.Entry("shape", shape);
  }
  const json offsets = header["model.norm.weight"]["data_offsets"];
  const uint64_t begin = offsets[0], end = offsets[1];
  for (const json& value :
       {json::array({end, begin}), json::array({begin}), json::array({begin, end + 2}),
        json::array({begin - 2, end - 2}), json::array({begin, UINT64_MAX}),
        json::array({UINT64_MAX, UINT64_MAX}), json::array({-1, end}), json("0"), json::array()}) {
    v.Entry("data_offsets", value);
  }
  v.Tensors("an entry is a number", [](json& h, std::string&) { h["x"] = 1; });
  v.Tensors("not a number", [](json&, std::string& data) { data.replace(2000, 2, "\xff\x7f"); });
  v.Tensors("infinity", [](json&, std::string& data) { data.replace(3000, 2, std::string("\0\x7c", 2)); });
}

void AddShards(Variants& v) {
  const Files good = ToyFiles(MakeToy({.layers = 1}), "F16", 3);
  const auto index = [&](const std::string& name, const std::function<void(json&)>& edit) {
    Files& files = v.Add("shards: " + name);
    files = good;
    json parsed = json::parse(files["model.safetensors.index.json"]);
    edit(parsed);
    files["model.safetensors.index.json"] = parsed.dump();
  };
  index("no map", [](json& i) { i.erase("weight_map"); });
  index("map is a list", [](json& i) { i["weight_map"] = json::array(); });
  index("empty map", [](json& i) { i["weight_map"] = json::object(); });
  index("a list", [](json& i) { i = json::array(); });
  for (const json& file : {json(1), json(""), json("../model-0.safetensors"), json("/etc/passwd"),
                           json(std::string("a\0b", 3)), json("absent.safetensors"), json("."),
                           json("model-1.safetensors"), json("config.json")}) {
    index("file " + file.dump(), [&](json& i) { i["weight_map"]["model.embed_tokens.weight"] = file; });
  }
  index("a tensor that is nowhere",
        [](json& i) { i["weight_map"]["more"] = "model-0.safetensors"; });
  Files& absent = v.Add("shards: a file is missing");
  absent = good;
  absent.erase("model-2.safetensors");
  Files& cut = v.Add("shards: a file is cut");
  cut = good;
  cut["model-2.safetensors"].resize(1000);
  Files& broken = v.Add("shards: the index is cut");
  broken = good;
  broken["model.safetensors.index.json"].resize(100);
}

Variants AllVariants() {
  Variants v(GoodFiles());
  AddConfigs(v);
  AddTensors(v);
  AddShards(v);
  return v;
}

/// Why the checkpoint is refused; empty if it is not.
std::string Sentence(const std::string& dir, ThreadPool& pool) {
  try {
    const Model model(dir, pool);
    return "";
  } catch (const Refusal& refusal) {
    return refusal.what();
  }
}

TEST(BrokenCheckpoint, TheUnbrokenOnesLoad) {
  ThreadPool pool(1);
  TestFolder folder;
  folder.Fill(GoodFiles());
  EXPECT_EQ(Sentence(folder.path(), pool), "");
  folder.Fill(ToyFiles(MakeToy({.layers = 1}), "F16", 3));
  EXPECT_EQ(Sentence(folder.path(), pool), "");
}

TEST(BrokenCheckpoint, EveryVariantIsRefusedInOneSentence) {
  ThreadPool pool(2);
  TestFolder folder;
  const Variants variants = AllVariants();
  EXPECT_GE(variants.list().size(), 100u);
  for (const Variant& variant : variants.list()) {
    SCOPED_TRACE(variant.name);
    folder.Fill(variant.files);
    std::string sentence;
    ASSERT_NO_THROW(sentence = Sentence(folder.path(), pool));
    ASSERT_NE(sentence, "");
    EXPECT_EQ(sentence.back(), '.');
    EXPECT_LT(sentence.size(), 500u);
    for (const char c : sentence) EXPECT_GE(static_cast<unsigned char>(c), 32);
  }
}

TEST(BrokenCheckpoint, FoldersInPlaceOfFilesAreRefused) {
  ThreadPool pool(1);
  TestFolder folder;
  for (const char* name : {"config.json", "model.safetensors"}) {
    Files files = GoodFiles();
    files.erase(name);
    folder.Fill(files);
    std::filesystem::create_directory(folder.path() + "/" + name);
    EXPECT_NE(Sentence(folder.path(), pool), "") << name;
  }
  EXPECT_NE(Sentence(folder.path() + "/nothing-here", pool), "");
}

TEST(BrokenCheckpoint, FlippedBitsOfTheHeaderNeverCrash) {
  ThreadPool pool(1);
  TestFolder folder;
  std::mt19937 random(7);
  size_t refused = 0;
  for (int i = 0; i < 300; ++i) {
    Files files = GoodFiles();
    std::string& file = files[i % 3 == 0 ? "config.json" : "model.safetensors"];
    const size_t reach = std::min<size_t>(file.size(), 1200);
    const size_t at = random() % reach;
    file[at] = static_cast<char>(file[at] ^ static_cast<char>(1 << random() % 8));
    folder.Fill(files);
    ASSERT_NO_THROW(refused += !Sentence(folder.path(), pool).empty());
  }
  EXPECT_GT(refused, 150u);
}

struct Outcome {
  int status;
  std::string text;
};

/// Runs the program itself; its output and its errors together.
Outcome RunProgram(const std::string& arguments) {
  FILE* pipe = popen((std::string(KVG_DEMO_PROGRAM) + " " + arguments + " 2>&1").c_str(), "r");
  Outcome outcome = {-1, ""};
  if (pipe == nullptr) return outcome;
  char buffer[4096];
  size_t count;
  while ((count = fread(buffer, 1, sizeof(buffer), pipe)) > 0) outcome.text.append(buffer, count);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.status = WEXITSTATUS(status);
  return outcome;
}

TEST(BrokenCheckpoint, TheProgramSaysOneLineAndEndsWithStatusOne) {
  TestFolder folder;
  const Variants variants = AllVariants();
  for (size_t i = 0; i < variants.list().size(); i += 40) {
    SCOPED_TRACE(variants.list()[i].name);
    folder.Fill(variants.list()[i].files);
    const Outcome outcome = RunProgram("--model " + folder.path() + " --prompt x");
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.text.rfind("kvgear-demo: ", 0), 0u) << outcome.text;
    EXPECT_EQ(std::count(outcome.text.begin(), outcome.text.end(), '\n'), 1) << outcome.text;
  }
  folder.Fill(ToyFiles(MakeToy({.vocab = 300}), "BF16"));
  const Outcome vocabulary = RunProgram("--model " + folder.path() + " --prompt x");
  EXPECT_EQ(vocabulary.status, 1);
  EXPECT_NE(vocabulary.text.find("no tokenizer"), std::string::npos) << vocabulary.text;
  const Outcome numbers = RunProgram("--model " + folder.path() + " --prompt-ids 1,299 --max-tokens 3");
  EXPECT_EQ(numbers.status, 0) << numbers.text;
  const Outcome beyond = RunProgram("--model " + folder.path() + " --prompt-ids 1,300");
  EXPECT_EQ(beyond.status, 1) << beyond.text;
  folder.Fill(GoodFiles());
  const Outcome recipe = RunProgram("--model " + folder.path() + " --prompt x --recipes gear-7");
  EXPECT_EQ(recipe.status, 1);
  EXPECT_NE(recipe.text.find("gear-2"), std::string::npos) << recipe.text;  // the right names
  EXPECT_EQ(RunProgram("--help").status, 0);
  EXPECT_EQ(RunProgram("").status, 1);
}

}  // namespace
}  // namespace demo
