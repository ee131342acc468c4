// Table, JSON and picture of made-up results.
#include "report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "labels.h"
#include "plot.h"

namespace demo {
namespace {

using testing::HasSubstr;
using testing::Not;

Result MakeResult(const std::string& recipe, double bits, double divergence, bool exams = true,
                  bool text = true) {
  Result r;
  r.recipe = recipe;
  r.sequences = 2;
  r.elements = 100'000;
  r.bytes = static_cast<uint64_t>(bits * 100'000 / 8);
  r.fp16_bytes = 200'000;
  r.tokens = r.kept = 100;
  r.sealed = 1000;
  r.error_k_sum = 50;
  r.error_v_sum = 125;
  r.decode_tokens_per_s = 321;
  r.attention_ms = 1.25;
  if (text) {
    r.text.Add(divergence, true);
    r.text.Add(3 * divergence, false);
  }
  if (exams) {
    r.exams["recall"].right = 3;
    r.exams["recall"].tried = 4;
    r.exams["recall"].answers.Add(4 * divergence, true);
    r.exams["sort"].right = r.exams["sort"].tried = 2;
    r.exams["sort"].answers.Add(6 * divergence, true);
    r.answers.Add(4 * divergence, true);
    r.answers.Add(6 * divergence, true);
  }
  return r;
}

std::vector<Result> NamedResults() {
  return {MakeResult("fp16", 16.2, 0),       MakeResult("int8", 9.0, 3e-6),
          MakeResult("int4", 5.1, 0.0012),   MakeResult("kivi-4", 5.4, 0.0009),
          MakeResult("kivi-2", 3.4, 0.019),  MakeResult("kcvt-4", 4.9, 0.002),
          MakeResult("gear-4", 6.4, 0.0005), MakeResult("gear-2", 4.4, 0.012),
          MakeResult("gear-l-4", 5.9, 6e-4), MakeResult("gear-l-2", 3.9, 0.014),
          MakeResult("k4v2", 4.0, 0.0026),   MakeResult("gear-k3v2", 3.9, 0.003)};
}

TEST(Report, TheTableIsAligned) {
  std::istringstream table(TableText(NamedResults()));
  std::string line;
  std::vector<std::string> lines;
  while (std::getline(table, line)) lines.push_back(line);
  ASSERT_EQ(lines.size(), 14u);
  for (const std::string& l : lines) EXPECT_EQ(l.size(), lines[0].size()) << l;
  for (const char* word : {"recipe", "bits/el", "KiB", "smaller", "recall", "sort", "KL exams",
                           "KL text", "same top", "err K", "err V", "tok/s", "attn ms"}) {
    EXPECT_THAT(lines[0], HasSubstr(word));
  }
  EXPECT_EQ(lines[4].substr(0, 5), "int4 ");
  for (const char* value : {" 5.10 ", "3/4", "2/2", "5/6", "0.0060", "0.0024", "0.0036", "50.00%",
                            "5.00%", "12.50%", " 321 ", "1.25"}) {
    EXPECT_THAT(lines[4], HasSubstr(value));
  }
}

TEST(Report, JsonHasTheKeysThatProgramsReadAndNullForWhatWasNotMeasured) {
  const auto list = nlohmann::json::parse(
      JsonText({MakeResult("fp16", 16, 0), MakeResult("a\"b", 4, 0.25, true, false)}));
  ASSERT_EQ(list.size(), 2u);
  const auto& r = list[1];
  EXPECT_EQ(r["recipe"], "a\"b");
  EXPECT_DOUBLE_EQ(r["bits_per_element"].get<double>(), 4.0);
  EXPECT_EQ(r["kv_bytes"], 25'000);
  EXPECT_EQ(r["fp16_bytes"], 100'000);
  EXPECT_TRUE(r["kl_mean"].is_null());
  EXPECT_TRUE(r["kl_max"].is_null());
  EXPECT_TRUE(r["same_top"].is_null());
  EXPECT_DOUBLE_EQ(r["kl_exams"].get<double>(), 1.25);
  EXPECT_DOUBLE_EQ(r["exams"]["recall"].get<double>(), 0.75);
  EXPECT_DOUBLE_EQ(r["exams"]["sort"].get<double>(), 1.0);
  EXPECT_DOUBLE_EQ(r["kl_exams_by_kind"]["sort"].get<double>(), 1.5);
  EXPECT_DOUBLE_EQ(r["rel_error_k"].get<double>(), 0.05);
  EXPECT_DOUBLE_EQ(r["rel_error_v"].get<double>(), 0.125);
  EXPECT_DOUBLE_EQ(r["decode_tokens_per_s"].get<double>(), 321.0);
  EXPECT_DOUBLE_EQ(list[0]["kl_mean"].get<double>(), 0.0);
  EXPECT_DOUBLE_EQ(list[0]["same_top"].get<double>(), 0.5);
}

size_t Count(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(Plot, OneMarkerForEveryRecipeAndPanel) {
  const std::vector<Result> results = NamedResults();
  const std::string svg = PictureSvg(results, "model");
  EXPECT_EQ(Count(svg, "<circle"), 24u);
  EXPECT_EQ(Count(svg, "class=\"name\""), 24u);
  EXPECT_EQ(Count(svg, "<svg"), 1u);
  EXPECT_EQ(Count(svg, "</svg>"), 1u);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(Plot, OddResultsAndNames) {
  const std::vector<Result> results = {
      MakeResult("fp16", 16, 0, false), MakeResult("int4", 16, 0, false),
      MakeResult("gear-2,k.rank=4,v.bits=3,window=64,k.outliers=0.1", 3, 50, false),
      MakeResult("<&\">", 40, 1e-30, false)};
  const std::string svg = PictureSvg(results, "a & <b>");
  EXPECT_EQ(Count(svg, "<circle"), 4u);
  EXPECT_THAT(svg, HasSubstr("&lt;&amp;&quot;&gt;"));
  EXPECT_THAT(svg, HasSubstr("a &amp; &lt;b&gt;"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  // Recipes that all change nothing.
  EXPECT_EQ(Count(PictureSvg({MakeResult("fp16", 16, 0, true, false)}, "m"), "<circle"), 1u);
}

double Overlap(const std::vector<Box>& places, const std::vector<LabelWish>& wishes, double radius) {
  double sum = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    for (size_t j = 0; j < places.size(); ++j) {
      if (j > i) sum += SharedArea(places[i], places[j]);
      const Box marker = {wishes[j].x - radius, wishes[j].y - radius, wishes[j].x + radius,
                          wishes[j].y + radius};
      sum += SharedArea(places[i], marker);
    }
  }
  return sum;
}

TEST(Labels, CoverNeitherEachOtherNorMarkers) {
  const Box frame = {0, 0, 520, 420};
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<LabelWish> wishes;
    for (int i = 0; i < 14; ++i) {
      // Half of them crowd in one corner.
      const double reach = i % 2 == 0 ? 1.0 : 0.25;
      wishes.push_back({20 + reach * static_cast<double>(random() % 480),
                        10 + reach * static_cast<double>(random() % 400),
                        60 + static_cast<double>(random() % 50), 16});
    }
    const std::vector<Box> places = PlaceLabels(wishes, frame, 5.5);
    EXPECT_EQ(Overlap(places, wishes, 5.5), 0) << "round " << round;
    for (const Box& place : places) {
      EXPECT_NEAR(SharedArea(place, frame),
                  (place.right - place.left) * (place.bottom - place.top), 1e-6);
    }
  }
}

TEST(Labels, SharedArea) {
  EXPECT_EQ(SharedArea({0, 0, 2, 2}, {1, 1, 3, 3}), 1);
  EXPECT_EQ(SharedArea({0, 0, 2, 2}, {2, 0, 3, 2}), 0);
  EXPECT_EQ(SharedArea({0, 0, 4, 4}, {1, 1, 2, 3}), 2);
}

}  // namespace
}  // namespace demo
