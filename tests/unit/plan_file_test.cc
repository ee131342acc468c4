// Plan files as untrusted input: what is damaged, of another model or incomplete is refused with a
// sentence, whatever is done to the bytes.
#include "core/model/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tests/support/latent_model.h"

namespace kvg {
namespace {

using test::LatentModel;
using test::LatentSpec;
using test::TemporaryFile;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kDamaged = absl::StatusCode::kDataLoss;

absl::Status Load(const std::string& contents, const Shape* shape = nullptr, const char* recipes = "",
                  const char* fingerprint = "") {
  const TemporaryFile file(contents);
  return Plan::Load(file.path(), shape, recipes, fingerprint).status();
}

void ExpectRefusal(const absl::Status& status, absl::StatusCode code, const char* words) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(words));
}

LatentSpec SmallSpec() {
  LatentSpec spec;
  spec.shape = {2, 4, 2, 32};
  spec.k_rank = spec.v_rank = 16;
  return spec;
}

// A file of this header, and as many bytes of data.
std::string FileOf(const std::string& header, size_t data = 0) {
  const uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data, '\0');
}

TEST(PlanFile, AWholeOneIsLoaded) {
  const LatentModel model(SmallSpec());
  const Shape shape = model.spec().shape;
  EXPECT_TRUE(Load(model.Writer().Contents(), &shape, "", "a model of tests").ok());
  const auto plan = model.LoadPlan("palu-3;1:int8");
  EXPECT_EQ(PrintRecipe(plan->recipe(0)), "palu-3");
  ASSERT_NE(plan->latent(0, ops::kSideK), nullptr);
  EXPECT_EQ(plan->latent(0, ops::kSideK)->rank, 16u);
  EXPECT_EQ(plan->latent(1, ops::kSideK), nullptr);
  EXPECT_EQ(plan->shape(), shape);
}

TEST(PlanFile, OfAnotherModel) {
  const LatentModel model(SmallSpec());
  const std::string file = model.Writer().Contents();
  Shape shape = model.spec().shape;
  shape.kv_heads = 4;
  ExpectRefusal(Load(file, &shape), kInvalid, "kv_heads is 2, and yours is 4");
  ExpectRefusal(Load(file, nullptr, "", "mine"), kInvalid, "fingerprint is \"a model of tests\"");
  PlanWriter writer = model.Writer();
  writer.Text("head_dim", "64");
  ExpectRefusal(Load(writer.Contents()), kInvalid, "for another model");
  writer.Text("head_dim", "-64");
  ExpectRefusal(Load(writer.Contents()), kInvalid, "head_dim");
  writer.Text("head_dim", "20");
  ExpectRefusal(Load(writer.Contents()), kInvalid, "head_dim is 20");
}

TEST(PlanFile, WhatRecipesNeed) {
  const Shape shape = SmallSpec().shape;
  PlanWriter writer(shape);
  ExpectRefusal(Load(writer.Contents()), kInvalid, "no text recipes");
  EXPECT_TRUE(Load(writer.Contents(), nullptr, "gear-4").ok());
  ExpectRefusal(Load(writer.Contents(), nullptr, "palu"), kInvalid, "no tensor \"layers.0.k.latent\"");
  ExpectRefusal(Load(writer.Contents(), nullptr, "nothing"), kInvalid, "there is no recipe");
  ExpectRefusal(Plan::Create(shape, "palu").status(), kInvalid, "kvg_plan_load");
  ExpectRefusal(Plan::Create(shape, "int4,v.latent=plan").status(), kInvalid, "plan file");
  ExpectRefusal(Plan::Create(shape, "palu,select=h2o").status(), absl::StatusCode::kUnimplemented, "select");
  ExpectRefusal(Plan::Create(shape, "tc-2,v.latent=plan").status(), kInvalid, "map is online");
  const std::vector<float> row(16 * 32, 0.1f);
  writer.Text("recipes", "fp16,k.latent=plan;1:fp16");
  const auto with = [&](const std::vector<uint64_t>& sizes, const std::vector<float>& values) {
    PlanWriter other = writer;
    other.Floats("layers.0.k.latent", sizes, values);
    return Load(other.Contents());
  };
  ExpectRefusal(with({2, 1, 12, 32}, std::vector<float>(2 * 12 * 32)), kInvalid, "rank 12");
  ExpectRefusal(with({2, 1, 40, 32}, std::vector<float>(2 * 40 * 32)), kInvalid, "rank 40");
  ExpectRefusal(with({2, 1, 0, 32}, {}), kInvalid, "rank 0");
  ExpectRefusal(with({3, 1, 8, 32}, std::vector<float>(3 * 8 * 32)), kInvalid, "another model");
  ExpectRefusal(with({2, 1, 8, 64}, std::vector<float>(2 * 8 * 64)), kInvalid, "another model");
  ExpectRefusal(with({2, 1, 8, 32}, std::vector<float>(2 * 8 * 32, 0.5f)), kInvalid, "orthonormal");
  std::vector<float> bad(2 * 8 * 32);
  bad[77] = std::numeric_limits<float>::infinity();
  ExpectRefusal(with({2, 1, 8, 32}, bad), kDamaged, "infinity");
  PlanWriter bytes = writer;
  bytes.Bytes("layers.0.k.latent", {2, 1, 8, 32}, std::vector<uint8_t>(2 * 8 * 32));
  ExpectRefusal(Load(bytes.Contents()), kInvalid, "of \"U8\"");
}

TEST(PlanFile, RotaryOfLatentKeys) {
  const LatentModel model(SmallSpec());
  PlanWriter writer = model.Writer();
  writer.Text("rope", "sideways");
  ExpectRefusal(Load(writer.Contents()), kInvalid, "rope");
  PlanWriter bare(model.spec().shape);
  bare.Text("recipes", "fp16;0:fp16,k.latent=plan");
  bare.Text("rope", "half");
  bare.Halves("layers.0.k.latent", {2, 1, 16, 32}, model.factors(ops::kSideK));
  ExpectRefusal(Load(bare.Contents()), kInvalid, "rope.frequencies");
  PlanWriter many = bare;
  many.Doubles("rope.frequencies", {17}, std::vector<double>(17, 0.1));
  ExpectRefusal(Load(many.Contents()), kInvalid, "1 to 16");
  bare.Doubles("rope.frequencies", {16}, std::vector<double>(16, 0.1));
  EXPECT_TRUE(Load(bare.Contents()).ok());
}

TEST(PlanFile, DamagedHeaders) {
  ExpectRefusal(Load(""), kDamaged, "shorter");
  ExpectRefusal(Load(std::string(8, '\xff')), kDamaged, "header");
  ExpectRefusal(Load(FileOf("[]")), kDamaged, "no JSON object");
  ExpectRefusal(Load(FileOf("{\"a\":")), kDamaged, "no JSON object");
  ExpectRefusal(Load(FileOf(std::string(100000, '['))), kDamaged, "no JSON object");
  ExpectRefusal(Load(FileOf("{}")), kInvalid, "no text kvgear.plan");
  ExpectRefusal(Load(FileOf("{\"__metadata__\":{\"kvgear.plan\":1}}")), kDamaged, "no string");
  ExpectRefusal(Load(FileOf("{\"__metadata__\":{\"kvgear.plan\":\"2\"}}")),
                absl::StatusCode::kUnimplemented, "newer");
  const auto tensor = [](const char* entry) { return FileOf(std::string("{\"t\":") + entry + "}", 8); };
  ExpectRefusal(Load(tensor("3")), kDamaged, "no object");
  ExpectRefusal(Load(tensor("{}")), kDamaged, "lacks");
  ExpectRefusal(Load(tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]}")), kDamaged, "beyond");
  ExpectRefusal(Load(tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}")), kDamaged, "beyond");
  ExpectRefusal(Load(tensor("{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}")), kDamaged, "in place of 12");
  ExpectRefusal(Load(tensor("{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}")), kDamaged, "impossible");
  ExpectRefusal(Load(tensor("{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,8]}")),
                kDamaged, "impossible");
  ExpectRefusal(Load(tensor("{\"dtype\":\"F32\",\"shape\":[2.5],\"data_offsets\":[0,8]}")), kDamaged, "impossible");
  ExpectRefusal(Plan::Load("/nowhere/plan", nullptr, "", "").status(), absl::StatusCode::kAborted, "opened");
  ExpectRefusal(Plan::Load("/", nullptr, "", "").status(), absl::StatusCode::kAborted, "");
}

// Every cut, and a byte changed anywhere in the header: loaded or refused, never worse.
TEST(PlanFile, CutsAndFlips) {
  LatentSpec spec = SmallSpec();
  spec.shape.layers = 1;
  const std::string whole = LatentModel(spec).Writer().Contents();
  for (size_t length = 0; length < 2000; length += 7) EXPECT_FALSE(Load(whole.substr(0, length)).ok());
  EXPECT_FALSE(Load(whole.substr(0, whole.size() - 9)).ok());
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  test::Random random(5);
  for (int i = 0; i < 500; ++i) {
    std::string changed = whole;
    changed[random.Next() % (header + 8)] = static_cast<char>(random.Next());
    const absl::Status status = Load(changed);
    EXPECT_TRUE(status.ok() || !status.message().empty());
  }
}

}  // namespace
}  // namespace kvg
