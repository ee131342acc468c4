// kvgear-plan tune as a program, on a toy model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kvgear/kvgear.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include "files.h"
#include "toy_checkpoint.h"

namespace demo {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

class TuneTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_.Fill(ToyFiles(MakeToy({.intermediate = 32, .seed = 5}), "F32"));
    std::string exams;
    for (int i = 0; i < 4; ++i) {
      std::string prompt;
      for (int c = 0; c < 300; ++c) prompt += static_cast<char>('a' + (c * c + 7 * i) % 23);
      exams += R"({"kind":"toy","prompt":")" + prompt + R"(","answer":"abc"})" "\n";
    }
    WriteWholeFile(Path("exams.jsonl"), exams);
  }

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }

  // Exit status; what it printed stands in out_ and err_.
  int Run(const std::string& flags) {
    const std::string command = std::string(KVG_PLAN_PROGRAM) + " tune --model=" + folder_.path() +
                                " " + flags + " >" + Path("out") + " 2>" + Path("err");
    const int status = std::system(command.c_str());
    out_ = ReadWholeFile(Path("out"));
    err_ = ReadWholeFile(Path("err"));
    return WEXITSTATUS(status);
  }
  int Tune(const std::string& flags) { return Run("--calibrate=" + Path("exams.jsonl") + " " + flags); }

  TestFolder folder_;
  std::string out_, err_;
};

TEST_F(TuneTest, MakesAPlanThatKeepsTheBits) {
  ASSERT_EQ(Tune("--bits=13 --out=" + Path("plan.safetensors") + " --json=" + Path("plan.json")), 0) << err_;
  kvg_plan* made = nullptr;
  kvg_error error;
  ASSERT_EQ(kvg_plan_load(Path("plan.safetensors").c_str(), nullptr, "", nullptr, 0, &made, &error), KVG_OK)
      << error.message;
  char recipe[512];
  EXPECT_EQ(kvg_plan_recipe(made, 1, recipe, sizeof(recipe), nullptr, &error), KVG_OK);
  EXPECT_THAT(recipe, AnyOf(HasSubstr("tc-3"), HasSubstr("fp16")));
  kvg_plan_destroy(made);
  const auto results = nlohmann::json::parse(ReadWholeFile(Path("plan.json")));
  EXPECT_EQ(results[0]["recipe"], "fp16");
  EXPECT_EQ(results[1]["recipe"], "tuned");
  EXPECT_LE(results[1]["bits_per_element"], 13.1);
  EXPECT_GT(results[1]["kl_exams"], 0);
}

TEST_F(TuneTest, MakesAPlanThatKeepsTheMemory) {
  ASSERT_EQ(Tune("--max_memory=300000 --tokens=1024 --out=" + Path("plan.safetensors")), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("for 300000 bytes for 1024 tokens"));
  EXPECT_EQ(Tune("--max_memory=300 --tokens=1024"), 1);
  EXPECT_THAT(err_, HasSubstr("The least plan takes "));
}

TEST_F(TuneTest, MakesAPlanThatKeepsTheDivergence) {
  ASSERT_EQ(Tune("--max_kl=0.001"), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("forecast"));
}

TEST_F(TuneTest, ListsItsFlags) {
  Run("--helpshort");
  for (const char* flag : {"--calibrate", "--max_kl", "--ratio"}) EXPECT_THAT(out_, HasSubstr(flag));
}

TEST_F(TuneTest, RefusesWithASentence) {
  EXPECT_EQ(Tune(""), 1);
  EXPECT_THAT(err_, HasSubstr("Say what you want with one of --bits"));
  EXPECT_EQ(Tune("--bits=3 --max_kl=1"), 1);
  EXPECT_EQ(Tune("--max_memory=3"), 1);
  EXPECT_THAT(err_, HasSubstr("--max_memory needs --tokens"));
  EXPECT_EQ(Tune("--bits=0.1"), 1);
  EXPECT_THAT(err_, HasSubstr("The least plan takes"));
  EXPECT_EQ(Run("--bits=3"), 1);
  EXPECT_THAT(err_, HasSubstr("--calibrate"));
  EXPECT_EQ(Run("--bits=3 --calibrate=" + Path("none.txt")), 1);
  EXPECT_THAT(err_, HasSubstr("none.txt"));
}

}  // namespace
}  // namespace demo
