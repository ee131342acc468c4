// kvgear-plan latent as a program, on a toy model: plans that load, for this model alone, and of which a
// whole one answers as the model does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kvgear/kvgear.h>
#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "compressed_store.h"
#include "evaluate.h"
#include "files.h"
#include "fingerprint.h"
#include "model.h"
#include "threads.h"
#include "toy_checkpoint.h"

namespace demo {
namespace {

using testing::HasSubstr;

class LatentTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_.Fill(ToyFiles(MakeToy({.intermediate = 32, .seed = 5}), "F32"));
    std::string text;
    for (int c = 0; c < 3000; ++c) text += static_cast<char>('a' + (c * c + c / 7) % 23);
    WriteWholeFile(Path("text.txt"), text);
  }

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }

  int Run(const std::string& flags) {
    const std::string command = std::string(KVG_PLAN_PROGRAM) + " latent --model=" + folder_.path() +
                                " --out=" + Path("plan") + " " + flags + " >" + Path("out") + " 2>" +
                                Path("err");
    const int status = std::system(command.c_str());
    out_ = ReadWholeFile(Path("out"));
    err_ = ReadWholeFile(Path("err"));
    return WEXITSTATUS(status);
  }

  /// Mean divergence of a recipe from fp16, over the text.
  double Kl(const std::string& recipe) {
    ThreadPool pool(1);
    Model model(folder_.path(), pool);
    Questions questions;
    questions.windows = {ReadWholeFile(Path("text.txt")).substr(0, 200)};
    return Evaluate(model, pool, {"fp16", recipe + "@" + Path("plan")}, questions, Speed::kLeftOut)
        .back()
        .text.mean();
  }

  TestFolder folder_;
  std::string out_, err_;
};

TEST_F(LatentTest, AWholePlanAnswersAsTheModel) {
  ASSERT_EQ(Run("--ratio=1"), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("100.0 % of all ranks kept"));
  const double whole = Kl("palu");
  EXPECT_LT(whole, 1e-4);
  ASSERT_EQ(Run("--ratio=0.5 --calibrate=" + Path("text.txt")), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("lost of the recorded rows"));
  EXPECT_GT(Kl("palu"), whole);
  ASSERT_EQ(Run("--allocate=lorc --most=0.8 --least=0.4"), 0) << err_;
  EXPECT_GT(Kl("lorc"), whole);
}

TEST_F(LatentTest, IsForThisModelAlone) {
  ASSERT_EQ(Run("--recipes=palu-3"), 0) << err_;
  ThreadPool pool(1);
  const Model model(folder_.path(), pool);
  EXPECT_NO_THROW(MakePlan(model.config(), "palu@" + Path("plan"), Fingerprint(model)));
  EXPECT_ANY_THROW(MakePlan(model.config(), "palu@" + Path("plan"), "another"));
  ModelConfig config = model.config();
  config.layers += 1;
  EXPECT_ANY_THROW(MakePlan(config, "palu@" + Path("plan"), Fingerprint(model)));
  TestFolder other;
  other.Fill(ToyFiles(MakeToy({.intermediate = 32, .seed = 6}), "F32"));
  EXPECT_NE(Fingerprint(model), Fingerprint(Model(other.path(), pool)));
}

TEST_F(LatentTest, Refusals) {
  EXPECT_NE(Run("--allocate=fisher"), 0);
  EXPECT_THAT(err_, HasSubstr("--fisher=FILE"));
  EXPECT_NE(Run("--allocate=lots"), 0);
  EXPECT_THAT(err_, HasSubstr("uniform, fisher or lorc"));
  EXPECT_NE(Run("--ratio=0"), 0);
  EXPECT_NE(Run("--rank_step=12"), 0);
  WriteWholeFile(Path("fisher"), R"({"k":[1],"v":"x"})");
  EXPECT_NE(Run("--allocate=fisher --fisher=" + Path("fisher")), 0);
  EXPECT_THAT(err_, HasSubstr("no list"));
}

}  // namespace
}  // namespace demo
