// The decoder against one written here from the definitions, in double precision and without any
// cache; and that results depend on neither threads nor neighbours.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "decode.h"
#include "exact_store.h"
#include "files.h"
#include "exams.h"
#include "model.h"
#include "prefill.h"
#include "threads.h"
#include "toy_checkpoint.h"

namespace demo {
namespace {

using Vector = std::vector<double>;

/// y = W x (+ bias), by the name of the weights.
Vector Product(const ToyModel& model, const std::string& name, const Vector& x) {
  const ToyTensor& w = model.tensors.at(name + ".weight");
  const auto bias = model.tensors.find(name + ".bias");
  Vector y(w.shape[0]);
  for (size_t o = 0; o < y.size(); ++o) {
    if (bias != model.tensors.end()) y[o] = double{bias->second.values[o]};
    for (size_t i = 0; i < x.size(); ++i) y[o] += double{w.values[o * x.size() + i]} * x[i];
  }
  return y;
}

Vector Normed(const ToyModel& model, const std::string& name, const Vector& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  const double eps = model.config.at("rms_norm_eps").get<double>();
  const double factor = 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = x[i] * factor * double{model.tensors.at(name + ".weight").values[i]};
  }
  return y;
}

/// Turns one head at x: the halves are the two coordinates of each plane.
void Turn(double* x, size_t dim, size_t position, const std::vector<double>& frequencies) {
  for (size_t i = 0; i < dim / 2; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    const double a = x[i], b = x[i + dim / 2];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + dim / 2] = a * std::sin(angle) + b * std::cos(angle);
  }
}

/// Logits behind every token, [tokens][vocab].
std::vector<Vector> PlainLogits(const ToyModel& model, const std::vector<uint32_t>& tokens,
                                const std::vector<double>& frequencies) {
  const auto size = [&](const char* key) { return model.config.at(key).get<size_t>(); };
  const size_t dim = size("head_dim");
  const size_t heads = size("num_attention_heads");
  const size_t group = heads / size("num_key_value_heads");
  std::vector<Vector> x;
  for (const uint32_t token : tokens) {
    const std::vector<float>& e = model.tensors.at("model.embed_tokens.weight").values;
    const auto begin = e.begin() + static_cast<long>(token * size("hidden_size"));
    x.emplace_back(begin, begin + static_cast<long>(size("hidden_size")));
  }
  for (size_t l = 0; l < size("num_hidden_layers"); ++l) {
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    std::vector<Vector> k, v;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const Vector normed = Normed(model, prefix + "input_layernorm", x[t]);
      Vector q = Product(model, prefix + "self_attn.q_proj", normed);
      k.push_back(Product(model, prefix + "self_attn.k_proj", normed));
      v.push_back(Product(model, prefix + "self_attn.v_proj", normed));
      for (size_t h = 0; h < heads; ++h) Turn(&q[h * dim], dim, t, frequencies);
      for (size_t h = 0; h < heads / group; ++h) Turn(&k[t][h * dim], dim, t, frequencies);
      // The cache holds fp16.
      for (Vector* row : {&k[t], &v[t]}) {
        for (double& n : *row) n = double{HalfToFloat(FloatToHalf(static_cast<float>(n)))};
      }
      Vector attended(heads * dim);
      for (size_t h = 0; h < heads; ++h) {
        Vector weights;
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (size_t i = 0; i < dim; ++i) dot += q[h * dim + i] * k[s][h / group * dim + i];
          weights.push_back(std::exp(dot / std::sqrt(static_cast<double>(dim))));
          sum += weights.back();
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < dim; ++i) {
            attended[h * dim + i] += weights[s] / sum * v[s][h / group * dim + i];
          }
        }
      }
      const Vector out = Product(model, prefix + "self_attn.o_proj", attended);
      for (size_t i = 0; i < out.size(); ++i) x[t][i] += out[i];
      const Vector second = Normed(model, prefix + "post_attention_layernorm", x[t]);
      Vector gate = Product(model, prefix + "mlp.gate_proj", second);
      const Vector up = Product(model, prefix + "mlp.up_proj", second);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Vector down = Product(model, prefix + "mlp.down_proj", gate);
      for (size_t i = 0; i < down.size(); ++i) x[t][i] += down[i];
    }
  }
  std::vector<Vector> logits;
  const bool tied = model.config.at("tie_word_embeddings").get<bool>();
  for (const Vector& row : x) {
    logits.push_back(Product(model, tied ? "model.embed_tokens" : "lm_head",
                             Normed(model, "model.norm", row)));
  }
  return logits;
}

std::vector<uint32_t> RandomTokens(size_t count, uint32_t vocab) {
  std::mt19937 random(5);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % vocab);
  return tokens;
}

/// Logits behind the tokens from `prompt` on, through Prefill and Decoder.
std::vector<std::vector<float>> FastLogits(Model& model, ThreadPool& pool,
                                           const std::vector<uint32_t>& tokens, size_t prompt,
                                           size_t lanes_count = 1) {
  std::vector<ExactStore> stores(lanes_count, ExactStore(model.config()));
  const std::vector<KvRows> rows = Prefill(model, pool, std::span(tokens).first(prompt));
  std::vector<Lane> lanes;
  for (ExactStore& store : stores) {
    for (uint32_t l = 0; l < rows.size(); ++l) {
      store.Append(l, rows[l].k.data(), rows[l].v.data(), prompt);
    }
    lanes.push_back({&store, 0, prompt});
  }
  Decoder decoder(model, pool);
  std::vector<std::vector<float>> out;
  for (size_t t = prompt; t < tokens.size(); ++t) {
    // The neighbours read other tokens, which must not matter to the last lane.
    for (Lane& lane : lanes) lane.token = (tokens[t] + 1) % model.config().vocab;
    lanes.back().token = tokens[t];
    const float* logits = decoder.Step(lanes) + (lanes_count - 1) * model.config().vocab;
    out.emplace_back(logits, logits + model.config().vocab);
  }
  return out;
}

struct Case {
  const char* name;
  ToyShape shape;
  const char* dtype;
  size_t shards;
  nlohmann::json more;  // added to config.json
};

class DecoderTest : public testing::TestWithParam<Case> {};

TEST_P(DecoderTest, AgreesWithTheDefinition) {
  const Case& c = GetParam();
  ToyModel toy = MakeToy(c.shape);
  for (const auto& [key, value] : c.more.items()) toy.config[key] = value;
  TestFolder folder;
  folder.Fill(ToyFiles(toy, c.dtype, c.shards));
  ThreadPool pool(2);
  Model model(folder.path(), pool);
  const std::vector<uint32_t> tokens = RandomTokens(67, c.shape.vocab);
  const size_t prompt = 53;
  const std::vector<Vector> expected =
      PlainLogits(toy, tokens, model.config().rope_frequencies);
  const auto found = FastLogits(model, pool, tokens, prompt);
  for (size_t t = prompt; t < tokens.size(); ++t) {
    double off = 0, size = 0;
    for (size_t i = 0; i < c.shape.vocab; ++i) {
      off += std::pow(double{found[t - prompt][i]} - expected[t][i], 2);
      size += std::pow(expected[t][i], 2);
    }
    // Not zero: a key that lies between two fp16 numbers may be rounded to the other one.
    EXPECT_LT(std::sqrt(off / size), 2e-3) << "token " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DecoderTest,
    testing::Values(
        Case{"llama_f32", {}, "F32", 1, {}},
        Case{"llama_f16_untied", {.tied = false, .seed = 2}, "F16", 1, {}},
        Case{"llama_bf16_sharded_wide_group",
             {.vocab = 50, .q_heads = 6, .kv_heads = 1, .head_dim = 40, .seed = 3}, "BF16", 3, {}},
        Case{"llama_bias_on_request",
             {.qkv_bias = true, .seed = 4}, "F32", 1, {{"attention_bias", false}}},
        Case{"qwen2_bf16", {.model_type = "qwen2", .layers = 3, .qkv_bias = true, .seed = 5}, "BF16",
             2, {}},
        Case{"linear_rope", {.seed = 6}, "F16", 1,
             {{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}},
        Case{"no_groups_theta", {.q_heads = 3, .kv_heads = 3, .head_dim = 64, .seed = 7}, "F32", 1,
             {{"rope_theta", 500.0}}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Rope, FrequenciesFollowTheirDefinition) {
  const ToyModel toy = MakeToy({.head_dim = 64});
  nlohmann::json config = toy.config;
  config["rope_theta"] = 500000.0;
  const std::vector<double> plain = ParseConfig(config.dump(), "c").rope_frequencies;
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NEAR(plain[i], std::pow(500000.0, -static_cast<double>(i) / 32), 1e-12);
  }
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  const std::vector<double> linear = ParseConfig(config.dump(), "c").rope_frequencies;
  EXPECT_DOUBLE_EQ(linear[9], plain[9] / 4);
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 32.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  const std::vector<double> llama3 = ParseConfig(config.dump(), "c").rope_frequencies;
  size_t kept = 0, slowed = 0, between = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wave = 2 * M_PI / plain[i];
    if (wave < 8192 / 4.0) {
      EXPECT_DOUBLE_EQ(llama3[i], plain[i]);
      ++kept;
    } else if (wave > 8192) {
      EXPECT_DOUBLE_EQ(llama3[i], plain[i] / 32);
      ++slowed;
    } else {
      const double smooth = (8192 / wave - 1) / (4 - 1);
      EXPECT_NEAR(llama3[i], (1 - smooth) * plain[i] / 32 + smooth * plain[i], 1e-12);
      ++between;
    }
  }
  EXPECT_GT(kept, 5u);
  EXPECT_GT(slowed, 5u);
  EXPECT_GT(between, 0u);
}

TEST(Decoder, NeitherThreadsNorNeighboursMatter) {
  TestFolder folder;
  folder.Fill(ToyFiles(MakeToy({.hidden = 72, .intermediate = 100}), "F32"));
  const std::vector<uint32_t> tokens = RandomTokens(120, 256);
  ThreadPool one(1);
  Model model(folder.path(), one);
  const auto expected = FastLogits(model, one, tokens, 110);
  for (const size_t threads : {2u, 3u, 5u}) {
    ThreadPool pool(threads);
    EXPECT_EQ(FastLogits(model, pool, tokens, 110), expected) << threads << " threads";
    EXPECT_EQ(FastLogits(model, pool, tokens, 110, 4 + threads), expected) << threads << " threads";
  }
  // Where the prompt ends is seen only in the last bits.
  const auto shorter = FastLogits(model, one, tokens, 60);
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_NEAR(double{shorter.back()[i]}, double{expected.back()[i]}, 1e-2);
  }
}

TEST(Decoder, TheShippedModelReadsProse) {
  ThreadPool pool(2);
  const std::string examples = KVG_EXAMPLES_DIR;
  Model model(examples + "/models/tiny", pool);
  const std::vector<uint32_t> tokens =
      Tokens(ReadWholeFile(examples + "/data/text.txt").substr(0, 600));
  const size_t prompt = 536;
  const auto logits = FastLogits(model, pool, tokens, prompt);
  double bits = 0;
  for (size_t t = prompt; t + 1 < tokens.size(); ++t) {
    const std::vector<float>& row = logits[t - prompt];
    double sum = 0;
    for (const float v : row) sum += std::exp(double{v});
    bits -= (double{row[tokens[t + 1]]} - std::log(sum)) / std::log(2.0);
  }
  // A model that is read wrongly needs more than four bits for a byte of English.
  EXPECT_LT(bits / static_cast<double>(tokens.size() - 1 - prompt), 2.0);
}

}  // namespace
}  // namespace demo
