// Run with a foreign verifier, a package of npm: prints accepted, or rejected and why.
// node verifiers.mjs NAME CASE: CASE is a file of JSON (cases.py). Packages are found beside the
// current directory.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const require = createRequire(`${process.cwd()}/package.json`)
const load = (name) => import(pathToFileURL(require.resolve(name)))
const packages = `${process.cwd()}/node_modules`
const bytes = (text) => Buffer.from(text, 'base64')

const verifiers = {
  async sequence(one) {
    const url = pathToFileURL(`${packages}/@0xsequence/tee-verifier/dist/index.js`)
    globalThis.window = globalThis // it is written for browsers
    const { SignedAttestation } = await import(url)
    const attestation = SignedAttestation.fromDocument(one.document)
    if (!(await attestation.verifySignature())) return 'signature'
    if (!(await attestation.verifyRootOfTrust(new Date()))) return 'root of trust'
    const found = await attestation.rootCertFingerprint()
    if (found.replace(/^0x/, '').toLowerCase() !== one.fingerprint) return 'fingerprint'
    const pcr0 = attestation.pcrs instanceof Map ? attestation.pcrs.get(0) : attestation.pcrs[0]
    return pcr0.replace(/^0x/, '').toLowerCase() === one.pcr0 ? '' : 'PCR0'
  },
  async evervault(one) {
    const { attestEnclave } = (await load('@evervault/attestation-bindings')).default
    const expected = [{ pcr0: one.pcr0 }]
    return attestEnclave(bytes(one.certificate), expected, bytes(one.document)) ? '' : 'false'
  },
  async evervault_wasm(one) {
    const folder = `${packages}/@evervault/wasm-attestation-bindings`
    const { main } = JSON.parse(readFileSync(`${folder}/package.json`))
    const bindings = await import(pathToFileURL(`${folder}/${main}`))
    const wasm = `${folder}/${main.replace('.js', '_bg.wasm')}`
    bindings.initSync({ module: readFileSync(wasm) })
    const pcrs = new bindings.PCRs(one.pcr0)
    return bindings.validateAttestationDocPcrs(one.document, [pcrs]) ? '' : 'false'
  },
}

const [name, path] = process.argv.slice(2)
const one = JSON.parse(readFileSync(path))
let reason
try {
  reason = await verifiers[name](one)
} catch (error) {
  if (error instanceof TypeError || error instanceof ReferenceError) throw error
  if (error.code === 'MODULE_NOT_FOUND' || error.code === 'ERR_MODULE_NOT_FOUND') throw error
  reason = String(error.message ?? error)
}
console.log(reason ? `rejected: ${reason.replace(/\s+/g, ' ')}` : 'accepted')
