// Command tlogcheck verifies a ledger with the Go checksum database's own code for notes and trees.
//
//	tlogcheck FOLDER VKEY
//
// It checks the checkpoint's signature, every entry against the level-0 tiles, the root against the
// entries, every tile of every level, inclusion of the first, middle and last entry, and consistency
// of every archived checkpoint with the present one. Exit status 1 names what is wrong.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type log struct {
	folder   string
	verifier note.Verifier
	tree     tlog.Tree
	leaves   []tlog.Hash
	stored   []tlog.Hash // as computed from the entries, in tlog's storage order
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: tlogcheck FOLDER VKEY")
	}
	verifier, err := note.NewVerifier(os.Args[2])
	check(err, "vkey")
	l := &log{folder: os.Args[1], verifier: verifier}
	l.tree = l.checkpoint("checkpoint")
	l.readEntries()
	l.checkRoot()
	tiles := l.checkTiles()
	proofs := l.checkInclusion()
	archived := l.checkConsistency()
	fmt.Printf("entries=%d tiles=%d inclusion=%d consistency=%d\n", len(l.leaves), tiles, proofs, archived)
}

// checkpoint opens a signed checkpoint of this log.
func (l *log) checkpoint(path string) tlog.Tree {
	opened, err := note.Open(l.read(path), note.VerifierList(l.verifier))
	check(err, path)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != l.verifier.Name() {
		fail("%s: not three lines of the log %s", path, l.verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err, path)
	root, err := tlog.ParseHash(lines[2])
	check(err, path)
	return tlog.Tree{N: size, Hash: root}
}

// readEntries reads every bundle and computes every hash of the tree from the entries alone.
func (l *log) readEntries() {
	for n := int64(0); n<<height < l.tree.N; n++ {
		path := tilePath(tlog.Tile{H: height, L: -1, N: n, W: width(l.tree.N, n)})
		data := l.read(path)
		for i := 0; i < width(l.tree.N, n); i++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				fail("%s: too short at entry %d", path, len(l.leaves))
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			l.add(tlog.RecordHash(data[2:end]))
			data = data[end:]
		}
		if len(data) > 0 {
			fail("%s: %d trailing bytes", path, len(data))
		}
	}
}

func (l *log) add(leaf tlog.Hash) {
	hashes, err := tlog.StoredHashesForRecordHash(int64(len(l.leaves)), leaf, l)
	check(err, "tree")
	l.leaves = append(l.leaves, leaf)
	l.stored = append(l.stored, hashes...)
}

// ReadHashes makes the computed hashes a tlog.HashReader.
func (l *log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = l.stored[index]
	}
	return hashes, nil
}

func (l *log) checkRoot() {
	root, err := tlog.TreeHash(l.tree.N, l)
	check(err, "root")
	if root != l.tree.Hash {
		fail("checkpoint: root %v, the entries make %v", l.tree.Hash, root)
	}
}

// checkTiles compares every tile on disk with the one that the entries make.
func (l *log) checkTiles() int {
	count := 0
	for level := 0; l.tree.N>>(height*uint(level)) > 0; level++ {
		nodes := l.tree.N >> (height * uint(level))
		for n := int64(0); n<<height < nodes; n++ {
			tile := tlog.Tile{H: height, L: level, N: n, W: width(nodes, n)}
			want, err := tlog.ReadTileData(tile, l)
			check(err, tilePath(tile))
			l.compare(tile, l.read(tilePath(tile)), want)
			count++
		}
	}
	return count
}

func (l *log) compare(tile tlog.Tile, got, want []byte) {
	if len(got) != len(want) {
		fail("%s: %d bytes, not %d", tilePath(tile), len(got), len(want))
	}
	for at := 0; at < len(got); at += tlog.HashSize {
		if !bytes.Equal(got[at:at+tlog.HashSize], want[at:at+tlog.HashSize]) {
			fail("%s: hash %d differs", tilePath(tile), at/tlog.HashSize)
		}
	}
}

// checkInclusion proves entries from the tiles on disk, which tlog authenticates against the root.
func (l *log) checkInclusion() int {
	if l.tree.N == 0 {
		return 0
	}
	indexes := []int64{0, l.tree.N / 2, l.tree.N - 1}
	reader := tlog.TileHashReader(l.tree, diskTiles{l})
	for _, index := range indexes {
		proof, err := tlog.ProveRecord(l.tree.N, index, reader)
		check(err, fmt.Sprintf("inclusion of entry %d", index))
		err = tlog.CheckRecord(proof, l.tree.N, l.tree.Hash, index, l.leaves[index])
		check(err, fmt.Sprintf("inclusion of entry %d", index))
	}
	return len(indexes)
}

func (l *log) checkConsistency() int {
	names, err := os.ReadDir(filepath.Join(l.folder, "checkpoints"))
	check(err, "checkpoints")
	reader := tlog.TileHashReader(l.tree, diskTiles{l})
	for _, name := range names {
		path := "checkpoints/" + name.Name()
		old := l.checkpoint(path)
		if strconv.FormatInt(old.N, 10) != name.Name() {
			fail("%s: is of size %d", path, old.N)
		}
		proof, err := tlog.ProveTree(l.tree.N, old.N, reader)
		check(err, path)
		check(tlog.CheckTree(proof, l.tree.N, l.tree.Hash, old.N, old.Hash), path)
	}
	return len(names)
}

// diskTiles reads tiles from the log's folder.
type diskTiles struct{ log *log }

func (d diskTiles) Height() int { return height }

func (d diskTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (d diskTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		data[i] = d.log.read(tilePath(tile))
	}
	return data, nil
}

// tilePath is the C2SP path: the Go checksum database's without the height, and with its own word for entries.
func tilePath(tile tlog.Tile) string {
	path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
	return strings.Replace(path, "tile/data/", "tile/entries/", 1)
}

func width(nodes, n int64) int {
	if rest := nodes - n<<height; rest < 1<<height {
		return int(rest)
	}
	return 1 << height
}

func (l *log) read(path string) []byte {
	data, err := os.ReadFile(filepath.Join(l.folder, path))
	check(err, path)
	return data
}

func check(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func fail(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
