// The command line: lists of recipes, flags, refusals.
#include "options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "refusal.h"

namespace demo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string WhyNot(const std::vector<std::string>& arguments) {
  try {
    ParseOptions(arguments);
    return "";
  } catch (const Refusal& refusal) {
    return refusal.what();
  }
}

TEST(SplitRecipes, SettingsStayWithTheirRecipe) {
  EXPECT_THAT(SplitRecipes("gear-2"), ElementsAre("gear-2"));
  EXPECT_THAT(SplitRecipes("fp16,gear-2,int4"), ElementsAre("fp16", "gear-2", "int4"));
  EXPECT_THAT(SplitRecipes("fp16,gear-2,k.rank=4,v.bits=3,int4,window=8"),
              ElementsAre("fp16", "gear-2,k.rank=4,v.bits=3", "int4,window=8"));
}

TEST(SplitRecipes, PlansStayTogether) {
  EXPECT_THAT(SplitRecipes("gear-2;0-1:int8;7:fp16,window=128,int4"),
              ElementsAre("gear-2;0-1:int8;7:fp16,window=128", "int4"));
  EXPECT_THAT(SplitRecipes("gear-2,k.rank=4;0:int8,kivi-2;3:int4,bits=3;4:fp16,int4"),
              ElementsAre("gear-2,k.rank=4;0:int8", "kivi-2;3:int4,bits=3;4:fp16", "int4"));
  // The setting is one of the override; the name before it is not.
  EXPECT_THAT(SplitRecipes("kivi-2;3:int4,window=64"), ElementsAre("kivi-2;3:int4,window=64"));
}

TEST(SplitRecipes, RefusesHolesAndSettingsWithoutARecipe) {
  for (const char* list : {"", ",", "int4,", ",int4", "int4,,int8", "k.rank=4", "bits=2,int4"}) {
    EXPECT_THROW(SplitRecipes(list), Refusal) << list;
  }
}

TEST(Options, AllFlags) {
  const Options o = ParseOptions({"--model", "m", "--exams", "e", "--text=t", "--recipes", "int4,int8",
                                  "--max-items", "7", "--seed=9", "--json", "j", "--plot", "a/p.png",
                                  "--threads", "3"});
  EXPECT_EQ(o.model, "m");
  EXPECT_EQ(o.exams, "e");
  EXPECT_EQ(o.text, "t");
  EXPECT_THAT(o.recipes, ElementsAre("int4", "int8"));
  EXPECT_EQ(o.max_items, 7u);
  EXPECT_EQ(o.seed, 9u);
  EXPECT_EQ(o.json, "j");
  EXPECT_EQ(o.plot, "a/p");
  EXPECT_EQ(o.threads, 3u);
  EXPECT_FALSE(o.prompt.has_value());
  EXPECT_EQ(ParseOptions({"--model", "m", "--prompt=--x=y"}).prompt, "--x=y");
  EXPECT_THAT(*ParseOptions({"--model", "m", "--prompt-ids", "3,0,9"}).prompt_ids,
              ElementsAre(3u, 0u, 9u));
  EXPECT_EQ(ParseOptions({"--model", "m", "--text", "t", "--plot", "p.svg"}).plot, "p");
  EXPECT_EQ(ParseOptions({"--model", "m", "--text", "t", "--plot", "p"}).plot, "p");
  EXPECT_TRUE(ParseOptions({"--help"}).help);
}

TEST(Options, TheLastOfTwoCounts) {
  EXPECT_EQ(ParseOptions({"--model", "a", "--text", "t", "--model", "b"}).model, "b");
}

TEST(Options, RefusalsSayWhatToDo) {
  EXPECT_THAT(WhyNot({}), HasSubstr("--model"));
  EXPECT_THAT(WhyNot({"--model", "m"}), HasSubstr("--prompt"));
  EXPECT_THAT(WhyNot({"--modle", "m"}), HasSubstr("--model"));  // all flags are listed
  EXPECT_THAT(WhyNot({"model"}), HasSubstr("no flag 'model'"));
  EXPECT_THAT(WhyNot({"--model"}), HasSubstr("needs a value"));
  EXPECT_THAT(WhyNot({"--model="}), HasSubstr("needs a value"));
  EXPECT_THAT(WhyNot({"--help=1"}), HasSubstr("takes no value"));
  for (const char* number : {"0", "-1", "x", "1.5", "99999999999999999999", "3 ", "1000001"}) {
    EXPECT_THAT(WhyNot({"--model", "m", "--text", "t", "--max-items", number}),
                HasSubstr("--max-items needs a number from 1"))
        << number;
  }
  EXPECT_THAT(WhyNot({"--model", "m", "--text", "t", "--threads", "0"}), HasSubstr("--threads"));
  EXPECT_THAT(WhyNot({"--model", "m", "--prompt", "x", "--prompt-ids", "1"}), HasSubstr("not both"));
  EXPECT_THAT(WhyNot({"--model", "m", "--prompt", "x", "--text", "t"}), HasSubstr("only generates"));
  EXPECT_THAT(WhyNot({"--model", "m", "--prompt-ids", "1,,2"}), HasSubstr("--prompt-ids"));
  EXPECT_THAT(WhyNot({"--model", "m", "--prompt", "x", "--temperature", "nan"}),
              HasSubstr("--temperature"));
}

TEST(Options, HelpNamesEveryFlag) {
  const std::string usage = Usage();
  for (const char* flag : {"--model DIR", "--exams FILE", "--text FILE", "--recipes A,B,C",
                           "--max-items N", "--seed N", "--json FILE", "--plot FILE",
                           "--prompt TEXT", "--device NAME", "--threads N", "--help"}) {
    EXPECT_THAT(usage, HasSubstr(flag));
  }
}

}  // namespace
}  // namespace demo
