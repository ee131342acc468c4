module kvgear.org/kvgear

go 1.21
