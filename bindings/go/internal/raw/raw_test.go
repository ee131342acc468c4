package raw

import (
	"bytes"
	"debug/elf"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type cStruct struct {
	name   string
	goType reflect.Type
	fields []string
}

const repository = "../../../.."

func inRepository(t *testing.T, path string) string {
	t.Helper()
	full := filepath.Join(repository, path)
	if _, err := os.Stat(full); err != nil {
		t.Skipf("only in the repository: %v", err)
	}
	return full
}

// What a C compiler says of sizes, offsets and values, by a program that knows nothing of Go, is what Go has.
func TestLayoutIsThatOfC(t *testing.T) {
	probe := inRepository(t, "tests/abi/layout.c")
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "kvgear"), 0o755); err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile("kvgear.h")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "kvgear", "kvgear.h"), header, 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "layout")
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	if out, err := exec.Command(compiler, "-I"+folder, probe, "-o", program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	printed, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}

	want := map[string]bool{}
	current := ""
	for _, line := range strings.Split(strings.TrimSpace(string(printed)), "\n") {
		words := strings.Fields(line)
		switch {
		case words[0] == "struct":
			current = words[1]
			want[fmt.Sprintf("struct %s %s", words[1], words[2])] = true
		case words[0] == "constant":
			want[fmt.Sprintf("constant %s %s", words[1], words[2])] = true
		case words[0] == "scalar":
			want[fmt.Sprintf("scalar %s %s", words[1], words[2])] = true
		default:
			want[fmt.Sprintf("field %s.%s %s %s", current, words[0], words[1], words[2])] = true
		}
	}

	got := map[string]bool{}
	for _, s := range cStructs {
		got[fmt.Sprintf("struct %s %d", s.name, s.goType.Size())] = true
		if s.goType.NumField() != len(s.fields) {
			t.Fatalf("%s has %d fields, its table %d", s.name, s.goType.NumField(), len(s.fields))
		}
		for i, name := range s.fields {
			f := s.goType.Field(i)
			got[fmt.Sprintf("field %s.%s %d %d", s.name, name, f.Offset, f.Type.Size())] = true
		}
	}
	for name, size := range cScalars {
		got[fmt.Sprintf("scalar %s %d", name, size)] = true
	}
	for name, value := range cConstants {
		if strings.HasPrefix(name, "KVG_VERSION_") {
			continue // of the release, not of the layout
		}
		got[fmt.Sprintf("constant %s %d", name, value)] = true
	}
	for line := range want {
		if !got[line] {
			t.Errorf("C says %q, Go does not", line)
		}
	}
	for line := range got {
		if !want[line] {
			t.Errorf("Go says %q, C does not", line)
		}
	}
	if len(want) < 100 {
		t.Errorf("C says only %d things", len(want))
	}
}

func TestHeaderIsThatOfTheRepository(t *testing.T) {
	original, err := os.ReadFile(inRepository(t, "capi/include/kvgear/kvgear.h"))
	if err != nil {
		t.Fatal(err)
	}
	if own, _ := os.ReadFile("kvgear.h"); !bytes.Equal(own, original) {
		t.Error("kvgear.h of this package is an old copy; run bindings/regenerate.sh")
	}
}

// The functions that the header declares, the library exports, SWIG wrapped and the table lists are the same ones.
func TestFunctionSets(t *testing.T) {
	header, err := os.ReadFile("kvgear.h")
	if err != nil {
		t.Fatal(err)
	}
	var declared []string
	for _, m := range regexp.MustCompile(`(?s)KVG_API [^;(]*?(kvg_\w+)\(`).FindAllSubmatch(header, -1) {
		declared = append(declared, string(m[1]))
	}
	slices.Sort(declared)
	same := func(what string, names []string) {
		t.Helper()
		slices.Sort(names)
		if !slices.Equal(names, declared) {
			t.Errorf("the header declares\n%v\nbut %s\n%v", declared, what, names)
		}
	}
	same("the table lists", slices.Clone(cFunctions))
	// kvgear_table.h declares one more, which gives hosts that open the library all of these at once.
	same("the library exports", slices.DeleteFunc(exported(t), func(name string) bool { return name == "kvg_get_api" }))

	wrapped := map[string]bool{}
	for _, name := range functionsOf(t, ".") {
		wrapped[name] = true
	}
	var names []string
	for _, name := range cFunctions {
		if wrapped[goName(name)] {
			names = append(names, name)
		}
	}
	same("this package has", names)
}

// A function of the header that the package calls nowhere is an error, unless it is left out on purpose.
func TestEveryFunctionIsUsed(t *testing.T) {
	used := map[string]bool{}
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "raw" {
					used[s.Sel.Name] = true
				}
			}
			return true
		})
	}
	list, err := os.ReadFile(inRepository(t, "bindings/swig/left_out.txt"))
	if err != nil {
		t.Fatal(err)
	}
	omitted := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^go (kvg_\w+) \S`).FindAllSubmatch(list, -1) {
		omitted[string(m[1])] = true
	}
	if len(omitted) == 0 {
		t.Error("left_out.txt lists nothing for Go")
	}
	for name := range omitted {
		if !slices.Contains(cFunctions, name) {
			t.Errorf("left_out.txt lists %s, which the header does not have", name)
		}
	}
	for _, name := range cFunctions {
		if used[goName(name)] == omitted[name] {
			t.Errorf("%s: used is %v, left out on purpose is %v", name, used[goName(name)], omitted[name])
		}
	}
}

func goName(c string) string {
	var b strings.Builder
	for _, part := range strings.Split(c, "_") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

func functionsOf(t *testing.T, folder string) []string {
	t.Helper()
	packages, err := parser.ParseDir(token.NewFileSet(), folder, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range packages["raw"].Files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

// exported reads the symbols of the library that this process has loaded.
func exported(t *testing.T) []string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip("no /proc/self/maps here")
	}
	path := regexp.MustCompile(`/\S*libkvgear\.so\S*`).Find(maps)
	if path == nil {
		t.Fatal("libkvgear.so is not loaded")
	}
	file, err := elf.Open(string(path))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	symbols, err := file.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && elf.ST_TYPE(s.Info) == elf.STT_FUNC {
			names = append(names, s.Name)
		}
	}
	return names
}

// A failure for whose detail there was no memory is a bare status.
func TestBareStatus(t *testing.T) {
	if err := takeError(0); err != nil {
		t.Error(err)
	}
	e, ok := takeError(KVG_E_NOMEM).(*Error)
	if !ok || e.Code != KVG_E_NOMEM || e.Message != "KVG_E_NOMEM" {
		t.Error(e)
	}
}
