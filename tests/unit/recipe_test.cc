// Recipes and plans: named recipes are valid, texts round-trip, what is wrong is refused and named.
#include "core/model/recipe.h"

#include <set>
#include <string>
#include <vector>

#include "core/model/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvg {
namespace {

using ::testing::HasSubstr;

Recipe Parse(std::string_view text) {
  const absl::StatusOr<Recipe> recipe = ParseRecipe(text);
  EXPECT_TRUE(recipe.ok()) << text << ": " << recipe.status();
  return recipe.ok() ? *recipe : Recipe();
}

std::string Refusal(std::string_view text) {
  const absl::StatusOr<Recipe> recipe = ParseRecipe(text);
  EXPECT_EQ(recipe.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(recipe.status().message());
}

TEST(Recipe, TheNamedOnesAreThere) {
  std::set<std::string> names;
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    names.insert(RecipeName(i));
    EXPECT_FALSE(std::string(RecipeSummary(i)).empty());
    const Recipe recipe = Parse(RecipeName(i));
    EXPECT_EQ(recipe.name, RecipeName(i));
    EXPECT_EQ(PrintRecipe(recipe), RecipeName(i));
  }
  for (const char* name : {"fp16", "int8", "int4", "kivi-4", "kivi-2", "kcvt-4", "gear-4", "gear-2",
                           "gear-l-4", "gear-l-2", "k4v2", "gear-k3v2", "int4-rot",
                           "int2-rot", "tc-2", "tc-2.5", "tc-3", "tc-3.5", "tc-4"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
  EXPECT_EQ(RecipeName(RecipeCount()), nullptr);
  EXPECT_EQ(RecipeSummary(RecipeCount()), nullptr);
}

TEST(Recipe, NamedOnesMeanWhatTheirMethodsSay) {
  const Recipe kivi = Parse("kivi-2");
  EXPECT_EQ(kivi.k.bits, 2u);
  EXPECT_EQ(kivi.k.axis, ops::kAxisChannel);
  EXPECT_EQ(kivi.k.group, 32u);
  EXPECT_EQ(kivi.k.window, 0u);
  EXPECT_EQ(kivi.k.block, 128u);
  EXPECT_EQ(kivi.v.axis, ops::kAxisToken);
  EXPECT_EQ(kivi.v.group, 32u);
  EXPECT_EQ(kivi.v.window, 128u);
  EXPECT_EQ(kivi.v.block, 1u);
  const Recipe gear = Parse("gear-2");
  for (const SideRecipe* side : {&gear.k, &gear.v}) {
    EXPECT_EQ(side->bits, 2u);
    EXPECT_EQ(side->group, 64u);
    EXPECT_EQ(side->outliers, 0.02);
    EXPECT_EQ(side->decode_rank, 0u);
    EXPECT_EQ(side->sweeps, 3u);
  }
  EXPECT_EQ(gear.k.rank, 7u);
  EXPECT_EQ(gear.v.rank, 0u);
  EXPECT_EQ(Parse("gear-4").k.rank, 4u);
  EXPECT_EQ(gear.k.axis, ops::kAxisChannel);
  EXPECT_EQ(gear.v.axis, ops::kAxisToken);
  // GEAR-L is GEAR without outliers, the backbone GEAR-L without rank: the same fields otherwise.
  SideRecipe without = gear.k;
  without.outliers = 0;
  EXPECT_EQ(Parse("gear-l-2").k, without);
  const Recipe k3v2 = Parse("gear-k3v2");
  EXPECT_EQ(k3v2.k.bits, 3u);
  EXPECT_EQ(k3v2.k.rank, 4u);
  EXPECT_EQ(k3v2.v.bits, 2u);
  EXPECT_EQ(k3v2.v.rank, 0u);
  SideRecipe rotated = Parse("int4").k;
  rotated.map = SideRecipe::kHadamard;
  EXPECT_EQ(Parse("int4-rot").k, rotated);
  EXPECT_EQ(Parse("int4-rot").v, rotated);
  EXPECT_EQ(Parse("kivi-2,k.map=hadamard").k.map, SideRecipe::kHadamard);
  EXPECT_EQ(PrintRecipe(Parse("kivi-2,k.map=hadamard")), "kivi-2,k.map=hadamard");
  EXPECT_THAT(Refusal("int4,map=fourier"), HasSubstr("it may be none, hadamard, online, channels or deco"));
  EXPECT_EQ(Parse("tc-2.5").v.map, SideRecipe::kOnline);
  EXPECT_EQ(Parse("tc-2.5").k.bits + Parse("tc-2.5").v.rate, 5);
  EXPECT_EQ(PrintRecipe(Parse("tc-3,k.map=online,k.rate=2.25")), "tc-3,k.map=online,k.rate=2.25");
  EXPECT_THAT(Refusal("tc-3,v.rate=1,v.floor=2"), HasSubstr("rate is below floor, which is 2"));
  EXPECT_THAT(Refusal("int4,rate=3"), HasSubstr("rate needs map=online"));
  EXPECT_THAT(Refusal("int4,fit=least"), HasSubstr("which needs axis=channel"));
  EXPECT_THAT(Refusal("int4,map=online"), HasSubstr("which needs axis=channel"));
  EXPECT_THAT(Refusal("tc-3,floor=5"), HasSubstr("a width: 0, 1, 2, 3, 4, 6 or 8"));
  EXPECT_EQ(Parse("kcvt-4").k.group, SideRecipe::kWhole);
  EXPECT_EQ(Parse("kcvt-4").v.group, SideRecipe::kAllHeads);
}

TEST(Recipe, SettingsReachTheSideTheyName) {
  const Recipe recipe = Parse(" gear-2 , k.rank=2, v.bits = 3,window=96 ");
  EXPECT_EQ(recipe.k.rank, 2u);
  EXPECT_EQ(recipe.v.rank, 0u);
  EXPECT_EQ(recipe.k.bits, 2u);
  EXPECT_EQ(recipe.v.bits, 3u);
  EXPECT_EQ(recipe.k.window, 96u);
  EXPECT_EQ(recipe.v.window, 96u);
  EXPECT_EQ(PrintRecipe(recipe), "gear-2,v.bits=3,k.rank=2,window=96");
}

TEST(Recipe, LaterSettingsWin) {
  EXPECT_EQ(Parse("gear-2,rank=1,k.rank=3").k.rank, 3u);
  EXPECT_EQ(Parse("gear-2,k.rank=3,rank=1").k.rank, 1u);
}

TEST(Recipe, CanonicalTextRoundTrips) {
  const std::vector<std::string> settings = {"",
                                             ",bits=16",
                                             ",k.bits=16",
                                             ",v.bits=1",
                                             ",bits=3",
                                             ",v.bits=6",
                                             ",outliers=0.1",
                                             ",k.outliers=0.015625,v.outliers=0",
                                             ",rank=2",
                                             ",k.decode_rank=16",
                                             ",rank_fit=0",
                                             ",v.rank_fit=1",
                                             ",sweeps=8",
                                             ",window=0",
                                             ",block=64",
                                             ",segment=8192",
                                             ",k.segment=4096",
                                             ",block=128,segment=2048",
                                             ",group=64",
                                             ",group=whole",
                                             ",v.group=all",
                                             ",outliers=0.1000000000000000055",
                                             ",v.axis=token,v.group=48",
                                             ",k.axis=channel,k.group=32"};
  int parsed = 0;
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    for (const std::string& a : settings) {
      for (const std::string& b : settings) {
        const absl::StatusOr<Recipe> recipe = ParseRecipe(RecipeName(i) + a + b);
        if (!recipe.ok()) continue;  // not every setting fits every recipe
        ++parsed;
        const std::string canonical = PrintRecipe(*recipe);
        const Recipe again = Parse(canonical);
        EXPECT_EQ(again, *recipe) << canonical;
        EXPECT_EQ(PrintRecipe(again), canonical);
      }
    }
  }
  EXPECT_GT(parsed, 3000);
}

TEST(Recipe, SettingsThatMeanNothingForFp16AreDropped) {
  EXPECT_EQ(Parse("fp16,rank=3,group=32"), Parse("fp16"));
  EXPECT_EQ(PrintRecipe(Parse("gear-2,bits=16")), "gear-2,bits=16");
  EXPECT_NE(Parse("fp16,window=32"), Parse("fp16"));
}

TEST(Recipe, WrongNamesAreRefusedWithTheRightOnes) {
  for (const char* text : {"", "gear", "GEAR-2", "gear-2 x", "bits=2", ",", "gear-2;"}) {
    const std::string message = Refusal(text);
    for (uint32_t i = 0; i < RecipeCount(); ++i) EXPECT_THAT(message, HasSubstr(RecipeName(i)));
  }
  EXPECT_THAT(Refusal("gear\n"), HasSubstr("there is no recipe \"gear\""));
  EXPECT_THAT(Refusal(std::string("a\0\x01\xff", 4)), HasSubstr("\"a\\x00\\x01\\xff\""));
  EXPECT_LT(Refusal(std::string(100000, 'x')).size(), 400u);
}

TEST(Recipe, WrongKeysAreRefusedWithTheRightOnes) {
  for (const char* text :
       {"gear-2,", "gear-2,rank", "gear-2,,rank=1", "gear-2,=1", "gear-2,K.rank=1", "gear-2,k.=1",
        "gear-2,k.k.rank=1", "gear-2,k.v.rank=1", "gear-2,ranks=1"}) {
    const std::string message = Refusal(text);
    for (const char* key : {"bits", "axis", "group", "outliers", "rank", "decode_rank", "rank_fit",
                            "sweeps", "window", "block", "segment"}) {
      EXPECT_THAT(message, HasSubstr(key)) << text;
    }
  }
}

TEST(Recipe, WrongValuesAreRefusedWithTheRightOnes) {
  EXPECT_THAT(Refusal("gear-2,bits=5"), HasSubstr("1, 2, 3, 4, 6, 8 or 16"));
  EXPECT_THAT(Refusal("gear-2,axis=row"), HasSubstr("token or channel"));
  EXPECT_THAT(Refusal("gear-2,k.group=-1"), HasSubstr("k.group is \"-1\""));
  EXPECT_THAT(Refusal("gear-2,rank=17"), HasSubstr("0 to 16"));
  EXPECT_THAT(Refusal("gear-2,sweeps=0"), HasSubstr("1 to 8"));
  for (const char* value :
       {"", "-0.1", "0.51", "nan", "inf", "1e-2", "0x1", "0.1x", "0,1", "--1"}) {
    Refusal(std::string("gear-2,outliers=") + value);
  }
  for (const char* value :
       {"", "-1", "+1", "1.0", "1 0", "4294967296", "99999999999999999999", "a"}) {
    for (const char* key : {"rank", "window", "block", "segment", "sweeps", "bits", "group"}) {
      Refusal(std::string("gear-2,") + key + "=" + value);
    }
  }
}

TEST(Recipe, PartsThatDoNotFitAreRefused) {
  EXPECT_THAT(Refusal("gear-2,block=48"), HasSubstr("multiple of 32"));
  EXPECT_THAT(Refusal("gear-2,block=128,segment=192"), HasSubstr("segment"));
  EXPECT_THAT(Refusal("gear-2,segment=16384"), HasSubstr("8192"));
  EXPECT_THAT(Refusal("gear-2,k.group=48"), HasSubstr("k.group is 48"));
  EXPECT_THAT(Refusal("gear-2,k.group=128"), HasSubstr("k.block is 64"));
  EXPECT_THAT(Refusal("gear-2,k.group=all"), HasSubstr("axis=token"));
  EXPECT_THAT(Refusal("gear-2,v.group=40"), HasSubstr("multiple of 16"));
  EXPECT_THAT(Refusal("gear-2,v.block=1"), HasSubstr("outliers=0"));
  EXPECT_THAT(Refusal("kivi-2,k.block=1"), HasSubstr("axis=token"));
  EXPECT_THAT(Refusal("kivi-2,v.rank=1"), HasSubstr("v.block is 1"));
  EXPECT_THAT(Refusal("kivi-2,v.segment=100"), HasSubstr("v.segment"));
  EXPECT_THAT(Refusal("kivi-2,v.bits=16"), HasSubstr("v.block is 1"));
}

const Shape kShape = {.layers = 8, .q_heads = 8, .kv_heads = 2, .head_dim = 64};

std::string PlanRefusal(const Shape& shape, std::string_view text) {
  const auto plan = Plan::Create(shape, text);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(plan.status().message());
}

TEST(Plan, OverridesReachTheirLayers) {
  const auto plan = Plan::Create(kShape, "gear-2; 0-1 : int8;7:fp16,window=128; 1:int4");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ((*plan)->shape().head_dim, 64u);
  EXPECT_EQ((*plan)->recipe(0), Parse("int8"));
  EXPECT_EQ((*plan)->recipe(1), Parse("int4"));
  for (uint32_t layer = 2; layer < 7; ++layer) EXPECT_EQ((*plan)->recipe(layer), Parse("gear-2"));
  EXPECT_EQ((*plan)->recipe(7), Parse("fp16,window=128"));
}

TEST(Plan, WrongTextsAreRefused) {
  for (const char* text :
       {"gear-2;", "gear-2;int8", "gear-2;:int8", "gear-2;8:int8", "gear-2;2-1:int8",
        "gear-2;-1:int8", "gear-2;1-:int8", "gear-2;0-8:int8", "gear-2;a:int8", "gear-2;0-1-2:int8",
        "gear-2;0:", "gear-2;0:int8;", "0:int8", ""}) {
    EXPECT_FALSE(PlanRefusal(kShape, text).empty());
  }
  EXPECT_THAT(PlanRefusal(kShape, "gear-2;8:int8"), HasSubstr("0 to 7"));
}

TEST(Plan, WrongShapesAreRefused) {
  const auto with = [](uint32_t Shape::*field, uint32_t value) {
    Shape shape = kShape;
    shape.*field = value;
    return PlanRefusal(shape, "fp16");
  };
  for (const uint32_t layers : {0u, 65537u})
    EXPECT_THAT(with(&Shape::layers, layers), HasSubstr("layers"));
  for (const uint32_t heads : {0u, 7u, 130u})
    EXPECT_THAT(with(&Shape::q_heads, heads), HasSubstr("q_heads"));
  for (const uint32_t heads : {0u, 1025u})
    EXPECT_THAT(with(&Shape::kv_heads, heads), HasSubstr("kv_heads"));
  for (const uint32_t dim : {0u, 24u, 36u, 264u, 4294967288u}) {
    EXPECT_THAT(with(&Shape::head_dim, dim), HasSubstr("head_dim"));
  }
}

TEST(Plan, EveryNamedRecipeFitsEveryHeadDim) {
  for (uint32_t dim = 32; dim <= 256; dim += 8) {
    for (uint32_t i = 0; i < RecipeCount(); ++i) {
      const auto plan =
          Plan::Create({.layers = 1, .q_heads = 64, .kv_heads = 1, .head_dim = dim}, RecipeName(i));
      EXPECT_TRUE(plan.ok()) << plan.status();
    }
  }
}

}  // namespace
}  // namespace kvg
