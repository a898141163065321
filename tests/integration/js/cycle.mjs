// The vendor's JavaScript SDK, unmodified, through its whole cycle.
// Input: JSON in the file named by the first argument {config, folderUid, recordUid, secrets: {…}}; nothing secret in argv.
// Output: one JSON object on standard output; a failed expectation ends with exit code 1.
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {
    completeTransaction, createFolder, createSecret2, deleteFolder, deleteSecret, downloadFile, getFolders, getSecrets,
    getValue, initializeStorage, loadJsonConfig, updateFolder, updateSecret, updateSecret2, uploadFile
} from '@keeper-security/secrets-manager-core'

const {config, folderUid, recordUid, secrets} = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const storage = loadJsonConfig(JSON.stringify({hostname: config.hostname}))
await initializeStorage(storage, config.clientKey, config.hostname)
const options = {
    storage,
    serverPublicKey: config.serverPublicKey,
    serverPublicKeyId: config.serverPublicKeyId,
    throttleSleep: async () => {}
}

const one = async uid => {
    const {records} = await getSecrets(options, [uid])
    assert.equal(records.length, 1)
    return records[0]
}
const password = record => record.data.fields.find(field => field.type === 'password').value[0]
const setPassword = (record, value) => { record.data.fields.find(field => field.type === 'password').value = [value] }
const refused = async (work, code) => assert.rejects(work, error => JSON.parse(error.message).error === code)

// bind, read, notation
const all = await getSecrets(options)
assert.equal(all.appData.title, 'application')
assert.deepEqual(all.records.map(record => record.recordUid), [recordUid])
assert.equal(password(all.records[0]), secrets.first)
assert.equal(getValue(all, `keeper://${recordUid}/field/password`), secrets.first)

// update at once, stale revision
const stale = await one(recordUid)
let record = await one(recordUid)
setPassword(record, secrets.second)
await updateSecret(options, record)
setPassword(stale, secrets.third)
await refused(updateSecret(options, stale), 'vault_conflict')
assert.equal(password(await one(recordUid)), secrets.second)

// two phases: finalize, roll back
for (const kind of ['general', 'rotation']) {
    record = await one(recordUid)
    setPassword(record, secrets.third + kind)
    await updateSecret(options, record, kind)
    assert.notEqual(password(await one(recordUid)), secrets.third + kind)
    await completeTransaction(options, recordUid)
    assert.equal(password(await one(recordUid)), secrets.third + kind)
}
record = await one(recordUid)
setPassword(record, secrets.fourth)
await updateSecret(options, record, 'rotation')
await completeTransaction(options, recordUid, true)
assert.equal(password(await one(recordUid)), secrets.third + 'rotation')

// files up and down
const content = new Uint8Array(70000).map((_, index) => index * 7 % 256)
record = await one(recordUid)
await uploadFile(options, record, {name: 'a.bin', title: 'a file', type: 'application/octet-stream', data: content})
record = await one(recordUid)
assert.equal(record.files.length, 1)
assert.deepEqual(Buffer.from(await downloadFile(record.files[0])), Buffer.from(content))
await updateSecret2(options, record, {links2Remove: [record.files[0].fileUid]})
assert.deepEqual((await one(recordUid)).files, [])

// folders
await getFolders(options)
const first = await createFolder(options, {folderUid}, 'first')
await getFolders(options)
const second = await createFolder(options, {folderUid, subFolderUid: first}, 'second')
await getFolders(options)
await updateFolder(options, second, 'renamed')
const folders = await getFolders(options)
assert.deepEqual(
    folders.map(folder => [folder.folderUid, folder.parentUid, folder.name]).sort(),
    [[folderUid, undefined, 'root'], [first, folderUid, 'first'], [second, first, 'renamed']].sort()
)

// create, delete
const fields = [{type: 'login', value: ['app']}, {type: 'password', value: [secrets.created]}]
const created = await createSecret2(
    options, {folderUid, subFolderUid: second}, {type: 'login', title: 'created', fields, custom: []}
)
record = await one(created)
assert.equal(record.innerFolderUid, second)
assert.equal(password(record), secrets.created)
assert.deepEqual((await deleteFolder(options, [first])).folders[0].responseCode, 'state')
assert.deepEqual((await deleteSecret(options, [created])).records[0].responseCode, 'ok')
assert.deepEqual((await deleteFolder(options, [first], true)).folders[0].responseCode, 'ok')
assert.deepEqual((await getFolders(options)).map(folder => folder.folderUid), [folderUid])

process.stdout.write(JSON.stringify({created, folders: [first, second]}) + '\n')
process.exit(0)
