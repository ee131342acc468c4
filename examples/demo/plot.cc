// Drawing of the picture: two scatter plots with logarithmic axes and a strip for "no difference".
#include "plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "compressed_store.h"
#include "labels.h"
#include "refusal.h"

namespace demo {
namespace {

constexpr double kHeight = 620;     // with one row of panels
constexpr double kRow = 540;        // of each further row
constexpr double kPanelTop = 118;
constexpr double kPanelBottom = 520;
constexpr double kExactBottom = 548;  // below the panel: recipes that changed nothing
constexpr double kPanelWidth = 520;
constexpr double kPanelLeft = 84;     // of a panel inside its column
constexpr double kColumn = 640;
constexpr double kRadius = 5.5;
constexpr double kName = 13;   // font sizes
constexpr double kNote = 11.5;

struct Dot {
  std::string name;  // of the recipe
  std::string note;  // what stands behind the name, in grey
  double bits = 0;
  double divergence = 0;
  double x = 0, y = 0;
};

struct Panel {
  std::string title;
  std::string axis;
  std::vector<Dot> dots;
};

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string Number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string At(double value) { return Number("%.1f", value); }

std::string TextAt(double x, double y, const char* style, const std::string& text) {
  return "<text x=\"" + At(x) + "\" y=\"" + At(y) + "\" " + style + ">" + Escaped(text) +
         "</text>\n";
}

std::string Line(double x0, double y0, double x1, double y1, const char* style) {
  return "<line x1=\"" + At(x0) + "\" y1=\"" + At(y0) + "\" x2=\"" + At(x1) + "\" y2=\"" + At(y1) +
         "\" " + style + "/>\n";
}

/// Recipes of one family share a colour.
const char* Colour(const std::string& recipe) {
  if (recipe.rfind("gear", 0) == 0) return "#d9480f";
  if (recipe.rfind("kivi", 0) == 0) return "#1864ab";
  if (recipe.rfind("kcvt", 0) == 0) return "#862e9c";
  if (recipe.rfind("tuned", 0) == 0) return "#c2255c";
  if (recipe.rfind("fp16", 0) == 0 || recipe.rfind("int", 0) == 0) return "#495057";
  return "#2b8a3e";
}

/// Widths as of a wide font, since the font of the reader is not known.
double WidthOf(const Dot& dot) {
  return static_cast<double>(dot.name.size()) * kName * 0.68 +
         (dot.note.empty() ? 0 : static_cast<double>(dot.note.size() + 1) * kNote * 0.62);
}

std::string ShortName(const std::string& recipe) {
  return recipe.size() <= 30 ? recipe : recipe.substr(0, 27) + "...";
}

struct Axes {
  double least_bits, most_bits;  // of the x axis, logarithmic
  int least_power, most_power;   // of ten, of the y axis
  double left;

  double X(double bits) const {
    const double t = std::log(bits / least_bits) / std::log(most_bits / least_bits);
    return left + t * kPanelWidth;
  }
  double Y(double divergence) const {
    if (divergence <= 0) return (kPanelBottom + kExactBottom) / 2;
    const double t = (std::log10(divergence) - least_power) / (most_power - least_power);
    return kPanelBottom - std::clamp(t, 0.0, 1.0) * (kPanelBottom - kPanelTop);
  }
};

Axes ChooseAxes(const std::vector<Panel>& panels, double left) {
  double least_bits = 16, most_bits = 16;
  double least = 1, most = 0;
  for (const Panel& panel : panels) {
    for (const Dot& dot : panel.dots) {
      least_bits = std::min(least_bits, dot.bits);
      most_bits = std::max(most_bits, dot.bits);
      if (dot.divergence <= 0) continue;
      // What is below a millionth is rounding, and would only stretch the axis.
      least = std::min(least, std::max(dot.divergence, 1e-6));
      most = std::max(most, dot.divergence);
    }
  }
  Axes axes = {least_bits * 0.78, most_bits * 1.08, -4, 0, left};
  if (most > 0) {
    axes.least_power = static_cast<int>(std::floor(std::log10(least)));
    axes.most_power = std::max(axes.least_power + 1, static_cast<int>(std::ceil(std::log10(most))));
  }
  return axes;
}

std::string PowerOfTen(int power) {
  return power >= -3 && power <= 2 ? Number("%g", std::pow(10, power)) : Text("1e", power);
}

/// Grid, ticks and titles.
std::string Frame(const Panel& panel, const Axes& axes) {
  const double right = axes.left + kPanelWidth;
  std::string out = TextAt(axes.left, kPanelTop - 16, "class=\"panel\"", panel.title);
  for (int power = axes.least_power; power <= axes.most_power; ++power) {
    const double y = axes.Y(std::pow(10, power));
    out += Line(axes.left, y, right, y, "class=\"grid\"");
    out += TextAt(axes.left - 9, y + 4, "class=\"tick\" text-anchor=\"end\"", PowerOfTen(power));
  }
  out += "<rect x=\"" + At(axes.left) + "\" y=\"" + At(kPanelBottom) + "\" width=\"" +
         At(kPanelWidth) + "\" height=\"" + At(kExactBottom - kPanelBottom) +
         "\" fill=\"#f1f3f5\"/>\n";
  out += TextAt(axes.left - 9, axes.Y(0) + 4, "class=\"tick\" text-anchor=\"end\"", "0");
  for (const int bits : {1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32}) {
    if (bits < axes.least_bits || bits > axes.most_bits) continue;
    const double x = axes.X(bits);
    out += Line(x, kPanelTop, x, kExactBottom, "class=\"grid\"");
    out += TextAt(x, kExactBottom + 17, "class=\"tick\" text-anchor=\"middle\"",
                  std::to_string(bits));
    out += TextAt(x, kExactBottom + 32, "class=\"faint\" text-anchor=\"middle\"",
                  Number("%.2g", 16.0 / bits) + "x");
  }
  out += Line(axes.left, kPanelTop, axes.left, kExactBottom, "class=\"axis\"");
  out += Line(axes.left, kExactBottom, right, kExactBottom, "class=\"axis\"");
  out += TextAt(axes.left + kPanelWidth / 2, kExactBottom + 54,
                "class=\"title\" text-anchor=\"middle\"",
                "bits per cached number, everything counted; below: times smaller than fp16");
  const std::string x = At(axes.left - 58);
  const std::string y = At((kPanelTop + kPanelBottom) / 2);
  out += "<text x=\"" + x + "\" y=\"" + y + "\" class=\"title\" text-anchor=\"middle\" " +
         "transform=\"rotate(-90 " + x + " " + y + ")\">" + Escaped(panel.axis) + "</text>\n";
  return out;
}

/// A line through the recipes that no other one beats in both bytes and fidelity.
std::string Frontier(const std::vector<Dot>& dots) {
  std::vector<const Dot*> order;
  for (const Dot& dot : dots) order.push_back(&dot);
  std::stable_sort(order.begin(), order.end(), [](const Dot* a, const Dot* b) {
    return a->bits != b->bits ? a->bits < b->bits : a->divergence < b->divergence;
  });
  std::string points;
  double least = INFINITY;
  for (const Dot* dot : order) {
    if (dot->divergence >= least) continue;
    least = dot->divergence;
    points += At(dot->x) + "," + At(dot->y) + " ";
  }
  return "<polyline points=\"" + points + "\" class=\"frontier\"/>\n";
}

std::string DrawPanel(Panel panel, const Axes& axes) {
  std::vector<LabelWish> wishes;
  for (Dot& dot : panel.dots) {
    dot.x = axes.X(dot.bits);
    dot.y = axes.Y(dot.divergence);
    wishes.push_back({dot.x, dot.y, WidthOf(dot), 16});
  }
  const Box frame = {axes.left + 3, kPanelTop - 6, axes.left + kPanelWidth + 26, kExactBottom - 2};
  const std::vector<Box> places = PlaceLabels(wishes, frame, kRadius);
  std::string out = Frame(panel, axes) + Frontier(panel.dots);
  for (size_t i = 0; i < panel.dots.size(); ++i) {
    const Dot& dot = panel.dots[i];
    const Box& place = places[i];
    const double x = std::clamp(dot.x, place.left, place.right);
    const double y = std::clamp(dot.y, place.top, place.bottom);
    if (std::hypot(x - dot.x, y - dot.y) > kRadius + 12) {
      out += Line(dot.x, dot.y, x, y, "class=\"leader\"");
    }
  }
  for (size_t i = 0; i < panel.dots.size(); ++i) {
    const Dot& dot = panel.dots[i];
    const Box& place = places[i];
    out += "<circle cx=\"" + At(dot.x) + "\" cy=\"" + At(dot.y) + "\" r=\"" + At(kRadius) +
           "\" fill=\"" + Colour(dot.name) + "\" stroke=\"#ffffff\" stroke-width=\"1.2\"/>\n";
    // A label to the left of its marker ends at it, whatever the font's real width.
    const bool before = (place.left + place.right) / 2 < dot.x - 1 && place.right < dot.x;
    const bool middle = place.left < dot.x && place.right > dot.x;
    const char* anchor = before ? "end" : middle ? "middle" : "start";
    const double x = before ? place.right : middle ? (place.left + place.right) / 2 : place.left;
    out += "<text x=\"" + At(x) + "\" y=\"" + At(place.bottom - 4) + "\" text-anchor=\"" + anchor +
           "\" class=\"name\" fill=\"" + Colour(dot.name) + "\">" + Escaped(ShortName(dot.name));
    if (!dot.note.empty()) out += "<tspan class=\"note\" dx=\"5\">" + dot.note + "</tspan>";
    out += "</text>\n";
  }
  return out;
}

std::vector<Panel> MakePanels(const std::vector<Result>& results, const std::string& which) {
  std::vector<Panel> panels;
  const Result& first = results.front();
  if (first.answers.positions > 0) {
    Panel panel = {Text("Exam answers", which, " (", first.all_exams().tried, " exams; right of tried)"),
                   "mean KL divergence from the fp16 cache", {}};
    for (const Result& r : results) {
      panel.dots.push_back({r.recipe, Text(r.all_exams().right, "/", r.all_exams().tried),
                            r.bits_per_element(), r.answers.mean(), 0, 0});
    }
    panels.push_back(std::move(panel));
  }
  if (first.text.positions > 0) {
    Panel panel = {Text("Prose", which, " (", first.text.positions, " positions; same top token)"),
                   "mean KL divergence from the fp16 cache", {}};
    for (const Result& r : results) {
      panel.dots.push_back({r.recipe, Number("%.1f%%", 100 * r.text.same_top_share()),
                            r.bits_per_element(), r.text.mean(), 0, 0});
    }
    panels.push_back(std::move(panel));
  }
  for (Panel& panel : panels) {
    for (Dot& dot : panel.dots) dot.name = ShortName(dot.name);
  }
  return panels;
}

/// One row for the codes; where there are policies too, a second one for those, with fp16 in both.
std::vector<std::vector<Panel>> MakeRows(const std::vector<Result>& results) {
  std::vector<Result> codes = {results.front()}, policies = {results.front()};
  for (size_t r = 1; r < results.size(); ++r) {
    (HasPolicy(results[r].recipe) ? policies : codes).push_back(results[r]);
  }
  if (codes.size() == 1 || policies.size() == 1) return {MakePanels(results, "")};
  return {MakePanels(codes, ", all tokens alike"), MakePanels(policies, ", tokens chosen by a policy")};
}

}  // namespace

std::string PictureSvg(const std::vector<Result>& results, const std::string& model) {
  const std::vector<std::vector<Panel>> rows = MakeRows(results);
  const double width = kColumn * static_cast<double>(rows.front().size()) + 20;
  const double height = kHeight + kRow * static_cast<double>(rows.size() - 1);
  std::string out = Text("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", width,
                         "\" height=\"", height, "\" viewBox=\"0 0 ", width, " ", height, "\">\n");
  out +=
      "<style>\n"
      "text { font-family: 'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif; }\n"
      ".head { font-size: 20px; font-weight: bold; fill: #212529; }\n"
      ".sub { font-size: 13px; fill: #495057; }\n"
      ".panel { font-size: 14px; font-weight: bold; fill: #212529; }\n"
      ".title { font-size: 12px; fill: #495057; }\n"
      ".tick { font-size: 12px; fill: #343a40; }\n"
      ".faint { font-size: 11px; fill: #868e96; }\n"
      ".name { font-size: 13px; font-weight: bold; paint-order: stroke; stroke: #ffffff; "
      "stroke-width: 3px; stroke-linejoin: round; }\n"
      ".note { font-size: 11.5px; font-weight: normal; fill: #495057; }\n"
      ".grid { stroke: #e9ecef; stroke-width: 1; }\n"
      ".axis { stroke: #495057; stroke-width: 1.2; }\n"
      ".leader { stroke: #adb5bd; stroke-width: 1; }\n"
      ".frontier { fill: none; stroke: #dee2e6; stroke-width: 4; stroke-linejoin: round; "
      "stroke-linecap: round; }\n"
      "</style>\n";
  out += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  out += TextAt(24, 36, "class=\"head\"", "Compressed KV caches: bytes against fidelity");
  out += TextAt(24, 60, "class=\"sub\"",
                Text(model, ". Lower left is better; along the grey line nothing smaller is as close."));
  for (size_t row = 0; row < rows.size(); ++row) {
    out += Text("<g transform=\"translate(0 ", kRow * static_cast<double>(row), ")\">\n");
    for (size_t i = 0; i < rows[row].size(); ++i) {
      const double left = kColumn * static_cast<double>(i) + kPanelLeft;
      out += DrawPanel(rows[row][i], ChooseAxes(rows[row], left));
    }
    out += "</g>\n";
  }
  return out + "</svg>\n";
}

}  // namespace demo
