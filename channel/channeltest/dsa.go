package channeltest

import (
	"crypto"
	//lint:ignore SA1019 old channels have DSA signatures
	"crypto/dsa"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"slices"
)

// dsaParameters are of 1024 bits and were made for these tests: it takes long to find such.
var dsaParameters = dsa.Parameters{
	P: hexadecimal("862bdcc68299f8799316a076d67739d33724b8d4ffd31f8721e4c99ad28ce410" +
		"5325ef540625023c99c33017ba6bd6972cf914fa47b85132cc8ee85b838a16c6" +
		"6fa7d6c06765d422f529f71bcd48bc21b4b105e67d1505bb5c6e99fed46184b4" +
		"a792ac48e78f6937516bd11215fa3b90e452fc8d196546f71cf0c2be33cfbb05"),
	Q: hexadecimal("bfa7ad3accfe032ee8e0237f8a40c82c91428935"),
	G: hexadecimal("5b76572f4103f95302bc1c5e24353442ba9bdce3e46b9b7df9ede042153ce314" +
		"bbea55962ca9da7b39ba0de6dad09982bb1764dceaf013bdc6ea176883101748" +
		"73990612cfb5a50de5208c5c6aa5d17f96e8a236259c44f8eee10c2a642a4c78" +
		"b0e2418a9be4e2ef01278f18c0f91d14d34bfd4b2220ae59dc1aa8232a65815b"),
}

func hexadecimal(digits string) *big.Int {
	n, _ := new(big.Int).SetString(digits, 16)
	return n
}

// NewDSAKey returns the DSA key that belongs to a name: always the same one, although
// its signatures differ.
func NewDSAKey(name string) *Key {
	seed := sha256.Sum256([]byte("channeltest key of " + name))
	private := &dsa.PrivateKey{PublicKey: dsa.PublicKey{Parameters: dsaParameters}}
	private.X = new(big.Int).Mod(new(big.Int).SetBytes(seed[:]), dsaParameters.Q)
	private.Y = new(big.Int).Exp(dsaParameters.G, private.X, dsaParameters.P)
	k := &Key{Name: name, algo: algoDSA}
	var material []byte
	for _, n := range []*big.Int{private.P, private.Q, private.G, private.Y} {
		material = append(material, mpi(n.Bytes())...)
	}
	k.setBody(material)
	k.sign = func(_ crypto.Hash, digest []byte) ([]byte, error) {
		size := (private.Q.BitLen() + 7) / 8
		r, s, err := dsa.Sign(rand.Reader, private, digest[:min(size, len(digest))])
		if err != nil {
			return nil, err
		}
		return slices.Concat(mpi(r.Bytes()), mpi(s.Bytes())), nil
	}
	return k
}
