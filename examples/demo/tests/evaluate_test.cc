// The comparison and the generation, on a toy model: what is counted, against a count made here.
#include "evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <span>

#include "compressed_store.h"
#include "decode.h"
#include "files.h"
#include "generate.h"
#include "prefill.h"
#include "refusal.h"
#include "toy_checkpoint.h"

namespace demo {
namespace {

using testing::HasSubstr;

class EvaluateTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TestFolder;
    folder_->Fill(ToyFiles(MakeToy({.intermediate = 32, .seed = 11}), "F32"));
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string Prompt(size_t bytes) {
    std::string text;
    for (size_t i = 0; i < bytes; ++i) text += static_cast<char>('a' + i * i % 23);
    return text;
  }

  std::string Continuation(const std::string& prompt, const std::string& recipe, size_t tokens) {
    std::string out;
    Generate(model_, pool_, {recipe, Tokens(prompt), tokens, 0, 0},
             [&](uint32_t token) { out += static_cast<char>(token); });
    return out;
  }

  /// Probabilities behind the tokens from `first` on, from a cache of its own.
  std::vector<std::vector<double>> Distributions(const std::string& text, size_t first,
                                                 const std::string& recipe) {
    CompressedStore store(MakeRuntime(0), MakePlan(model_.config(), recipe));
    const std::vector<uint32_t> tokens = Tokens(text);
    store.AppendPrompt(Prefill(model_, pool_, std::span(tokens).first(first - 1)));
    Decoder decoder(model_, pool_);
    std::vector<Lane> lanes = {{&store, 0, first - 1}};
    std::vector<std::vector<double>> out;
    for (size_t t = first - 1; t + 1 < tokens.size(); ++t) {
      lanes[0].token = tokens[t];
      const float* logits = decoder.Step(lanes);
      std::vector<double> p;
      double sum = 0;
      for (size_t i = 0; i < 256; ++i) sum += std::exp(double{logits[i]});
      for (size_t i = 0; i < 256; ++i) p.push_back(std::exp(double{logits[i]}) / sum);
      out.push_back(std::move(p));
    }
    return out;
  }

  static TestFolder* folder_;
  ThreadPool pool_{2};
  Model model_{folder_->path(), pool_};
};

TestFolder* EvaluateTest::folder_ = nullptr;

TEST_F(EvaluateTest, ScoresAreThoseOfGreedyAnswers) {
  const std::string first = Prompt(150), second = "x" + Prompt(140);
  std::string wrong = Continuation(first, "fp16", 9);
  wrong[8] = static_cast<char>(wrong[8] ^ 1);
  Questions questions;
  for (const std::string& prompt : {first, second}) {
    questions.exams.push_back({"good", prompt, Continuation(prompt, "fp16", 9)});
    questions.exams.push_back({"of kivi", prompt, Continuation(prompt, "kivi-2,k.block=32", 40)});
  }
  questions.exams.push_back({"bad", first, wrong});
  const auto results = Evaluate(model_, pool_, {"fp16", "kivi-2,k.block=32"}, questions);
  EXPECT_EQ(results[0].exams.at("good").right, 2u);
  EXPECT_EQ(results[0].exams.at("good").tried, 2u);
  EXPECT_EQ(results[0].exams.at("bad").right, 0u);
  EXPECT_EQ(results[0].exams.at("bad").tried, 1u);
  EXPECT_EQ(results[1].exams.at("of kivi").right, 2u);
  EXPECT_EQ(results[1].exams.at("bad").right, 0u);
  EXPECT_EQ(results[0].all_exams().tried, 5u);
  EXPECT_EQ(results[0].answers.positions, 3 * 9 + 2 * 40u);
  EXPECT_EQ(results[0].exams.at("bad").answers.positions, 9u);
  EXPECT_EQ(results[0].text.positions, 0u);
}

TEST_F(EvaluateTest, DivergenceIsThatOfTheDefinition) {
  const std::string window = Prompt(360);
  const std::string recipe = "kivi-2,k.block=32,v.window=16";
  Questions questions;
  questions.windows = {window};
  questions.exams = {{"kind", Prompt(130), "an answer"}};
  const auto results = Evaluate(model_, pool_, {"fp16", "int8,window=0", recipe}, questions);
  const auto check = [&](const Divergence& d, const std::string& text, size_t first) {
    const auto exact = Distributions(text, first, "fp16");
    const auto other = Distributions(text, first, recipe);
    double sum = 0, most = 0;
    size_t same = 0;
    for (size_t t = 0; t < exact.size(); ++t) {
      double kl = 0;
      for (size_t i = 0; i < 256; ++i) kl += exact[t][i] * std::log(exact[t][i] / other[t][i]);
      sum += kl;
      most = std::max(most, kl);
      same += std::max_element(exact[t].begin(), exact[t].end()) - exact[t].begin() ==
              std::max_element(other[t].begin(), other[t].end()) - other[t].begin();
    }
    EXPECT_EQ(d.positions, text.size() - first);
    EXPECT_NEAR(d.mean(), sum / static_cast<double>(exact.size()), 1e-9);
    EXPECT_NEAR(d.most, most, 1e-9);
    EXPECT_EQ(d.same_top, same);
  };
  check(results[2].text, window, 320);  // eight ninths are the prompt
  check(results[2].answers, Prompt(130) + "an answer", 130);
  EXPECT_EQ(results[0].text.most, 0);
  EXPECT_EQ(results[0].text.same_top_share(), 1);
  EXPECT_GT(results[1].text.mean(), 0);
  EXPECT_LT(results[1].text.mean(), results[2].text.mean() / 10);
}

TEST_F(EvaluateTest, BytesAndErrorsAreThoseOfTheCaches) {
  Questions questions;
  questions.windows = {Prompt(360), Prompt(270)};
  const auto results = Evaluate(model_, pool_, {"fp16", "int4,window=0"}, questions);
  // The last token of a window is predicted, not read.
  const uint64_t elements = 2 * 2 * (359 + 269) * 64;  // layers, sides, tokens, width
  for (const Result& r : results) {
    EXPECT_EQ(r.sequences, 2u);
    EXPECT_EQ(r.elements, elements);
    EXPECT_EQ(r.fp16_bytes, 2 * elements);
    EXPECT_GT(r.decode_tokens_per_s, 0);
    EXPECT_GT(r.attention_ms, 0);
  }
  EXPECT_GE(results[0].bits_per_element(), 16.0);
  EXPECT_EQ(results[0].error_k(), 0);
  EXPECT_GT(results[1].bits_per_element(), 4.5);
  EXPECT_LT(results[1].bits_per_element(), 9.0);
  EXPECT_NEAR(results[1].times_smaller(), 16 / results[1].bits_per_element(), 1e-3);
  EXPECT_GT(results[1].error_k(), 0.01);
  EXPECT_LT(results[1].error_k(), 0.2);
  EXPECT_GT(results[1].error_v(), 0.01);
  EXPECT_LT(results[1].error_v(), 0.2);
}

TEST_F(EvaluateTest, ThreadsAndOtherRecipesChangeNothing) {
  Questions questions;
  questions.windows = {Prompt(270)};
  const std::string plan = "gear-2,window=0;0:int8,window=0";
  const auto expected = Evaluate(model_, pool_, {"fp16", plan, "int4,window=0"}, questions);
  for (const size_t threads : {1u, 3u}) {
    ThreadPool pool(threads);
    const auto found = Evaluate(model_, pool, {"fp16", plan}, questions);
    EXPECT_EQ(found[1].text.sum, expected[1].text.sum);
    EXPECT_EQ(found[1].text.most, expected[1].text.most);
    EXPECT_EQ(found[1].bytes, expected[1].bytes);
    EXPECT_EQ(found[1].error_k(), expected[1].error_k());
  }
}

TEST_F(EvaluateTest, QuestionsThatDoNotFitAreRefused) {
  Questions questions;
  questions.exams = {{"kind", Prompt(4090), "a long answer"}};
  EXPECT_THROW(Evaluate(model_, pool_, {"fp16"}, questions), Refusal);
  questions.exams.clear();
  questions.windows = {"short"};
  EXPECT_THROW(Evaluate(model_, pool_, {"fp16"}, questions), Refusal);
  EXPECT_THROW(Evaluate(model_, pool_, {"fp16", "gear-9"}, questions), Refusal);
}

TEST_F(EvaluateTest, GenerationFollowsItsSeedAndItsLimit) {
  const std::string prompt = Prompt(80);
  const auto run = [&](double temperature, uint64_t seed, size_t most) {
    std::string out;
    const std::string summary =
        Generate(model_, pool_, {"gear-4", Tokens(prompt), most, temperature, seed},
                 [&](uint32_t token) { out += static_cast<char>(token); });
    EXPECT_THAT(summary, HasSubstr("gear-4: "));
    EXPECT_EQ(out.size(), most);
    return out;
  };
  EXPECT_EQ(run(1, 5, 30), run(1, 5, 30));
  EXPECT_NE(run(1, 5, 30), run(1, 6, 30));
  EXPECT_EQ(run(0, 5, 30), run(0, 6, 30));
  EXPECT_EQ(run(0, 5, 30).substr(0, 10), run(0, 5, 10));
  EXPECT_EQ(Continuation("a", "int4", 3).size(), 3u);  // a prompt of one token has no prefill
  EXPECT_EQ(Continuation(Prompt(4090), "int4", 30).size(), 6u);  // 4096 positions
  EXPECT_THROW(Continuation(Prompt(4096), "int4", 30), Refusal);
}

TEST(Exams, BadLinesAreNamed) {
  TestFolder folder;
  const std::string good = R"({"kind":"k","prompt":"p","answer":"a"})";
  for (const char* bad : {"{", "[]", "3", "{}", R"({"kind":"k","prompt":"p"})",
                          R"({"kind":"k","prompt":"p","answer":5})",
                          R"({"kind":"k","prompt":"","answer":"a"})"}) {
    folder.Fill({{"e", good + "\n\n" + bad + "\n"}});
    try {
      ReadExams(folder.path() + "/e");
      FAIL() << bad;
    } catch (const Refusal& refusal) {
      EXPECT_THAT(refusal.what(), HasSubstr("line 3"));
    }
  }
  folder.Fill({{"e", " \n"}});
  EXPECT_THROW(ReadExams(folder.path() + "/e"), Refusal);
  folder.Fill({{"e", good + "\r\n" + good}});
  EXPECT_EQ(ReadExams(folder.path() + "/e").size(), 2u);
}

TEST(Exams, ChoicesFollowTheSeed) {
  std::vector<Exam> exams;
  for (int i = 0; i < 40; ++i) exams.push_back({i % 2 ? "a" : "b", std::to_string(i), "x"});
  const auto names = [&](size_t most, uint64_t seed) {
    std::string out;
    for (const Exam& exam : ChooseExams(exams, most, seed)) out += exam.prompt + " ";
    return out;
  };
  EXPECT_EQ(names(2, 0), "0 1 2 3 ");
  EXPECT_EQ(names(3, 7), names(3, 7));
  EXPECT_NE(names(3, 7), names(3, 8));
  EXPECT_EQ(ChooseExams(exams, 3, 7).size(), 6u);
  EXPECT_EQ(ChooseExams(exams, 0, 7).size(), 40u);
  EXPECT_EQ(ChooseWindows(std::string(100, 'x'), 30, 0, 0).size(), 3u);
  EXPECT_EQ(ChooseWindows(std::string(100, 'x'), 30, 2, 4).size(), 2u);
  EXPECT_EQ(ChooseWindows(std::string(20, 'x'), 30, 2, 4).at(0).size(), 20u);
}

TEST(Exams, TheShippedOnesAreComplete) {
  const std::string examples = KVG_EXAMPLES_DIR;
  const std::vector<Exam> exams = ReadExams(examples + "/data/exams.jsonl");
  EXPECT_EQ(exams.size(), 30u);
  EXPECT_EQ(ChooseExams(exams, 1, 0).size(), 5u);
  EXPECT_GE(ReadWholeFile(examples + "/data/text.txt").size(), 3 * (kWindowPrompt + kWindowScored));
}

}  // namespace
}  // namespace demo
