/* See include/aws/nitro_enclaves/stand_in.h: NOT aws-nitro-enclaves-sdk-c. */
#include <aws/nitro_enclaves/stand_in.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where enclave/sdk/search.py looks for a version. */
const char stand_in_version[] = "aws-nitro_enclaves-sdk-c/STAND-IN-FOR-TESTS";

static long s_live, s_inits, s_calls;
static _Thread_local int s_error;
static char s_allocator;

long stand_in_live(void) { return s_live; }
long stand_in_inits(void) { return s_inits; }

/* Every allocation knows its size: what is freed is wiped first. */
static void *s_new(size_t size) {
    size_t *block = calloc(1, sizeof(size_t) + size + 1);
    *block = size;
    __atomic_add_fetch(&s_live, 1, __ATOMIC_SEQ_CST);
    return block + 1;
}

static void s_free(void *memory) {
    free((size_t *)memory - 1);
    __atomic_sub_fetch(&s_live, 1, __ATOMIC_SEQ_CST);
}

static int s_fail(int error) {
    s_error = error;
    return -1;
}

int aws_last_error(void) { return s_error; }
void aws_reset_error(void) { s_error = 0; }
const char *aws_error_name(int err) { return err == 7 ? "STAND_IN_ERROR" : "UNKNOWN"; }

void aws_nitro_enclaves_library_init(struct aws_allocator *allocator) {
    (void)allocator;
    ++s_inits;
}

struct aws_allocator *aws_nitro_enclaves_get_allocator(void) {
    if (!s_inits) {
        abort(); /* as the SDK */
    }
    return (struct aws_allocator *)&s_allocator;
}

int aws_nitro_enclaves_library_seed_entropy(uint64_t bytes) {
    return bytes == 13 ? s_fail(7) : 0;
}

/* Byte buffers and strings */

static int s_fill(struct aws_byte_buf *buf, const void *data, size_t len) {
    memset(buf, 0, sizeof(*buf));
    if (!len) {
        return 0; /* no bytes, no pointer: as aws_byte_buf_init_copy_from_cursor */
    }
    buf->buffer = s_new(len);
    buf->len = buf->capacity = len;
    buf->allocator = (struct aws_allocator *)&s_allocator;
    memcpy(buf->buffer, data, len);
    return 0;
}

void aws_byte_buf_clean_up_secure(struct aws_byte_buf *buf) {
    if (buf->allocator && buf->buffer) {
        memset(buf->buffer, 0, buf->capacity);
        s_free(buf->buffer);
    }
    memset(buf, 0, sizeof(*buf));
}

struct aws_string *aws_string_new_from_array(struct aws_allocator *a, const uint8_t *p, size_t n) {
    (void)a;
    return (struct aws_string *)memcpy(s_new(n), p, n);
}

void aws_string_destroy_secure(struct aws_string *str) {
    if (str) {
        memset(str, 0, ((size_t *)str)[-1]);
        s_free(str);
    }
}

static const char *s_text(const struct aws_string *str) { return str ? (const char *)str : "-"; }

/* Attestation and CMS. An envelope is: what to do, length of key, length of IV, then both and the
 * ciphertext. P: parse; E: fail at once; D: fail with one output filled, as cms.c may. */

struct aws_rsa_keypair *aws_attestation_rsa_keypair_new(
    struct aws_allocator *a, enum aws_rsa_key_size size) {
    (void)a;
    return size == AWS_RSA_2048 ? s_new(1) : NULL;
}

void aws_attestation_rsa_keypair_destroy(struct aws_rsa_keypair *keypair) { s_free(keypair); }

int aws_attestation_request(
    struct aws_allocator *a, struct aws_rsa_keypair *keypair, struct aws_byte_buf *document) {
    (void)a, (void)keypair;
    const char *path = getenv("STAND_IN_DOCUMENT");
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file) {
        return -1;
    }
    uint8_t data[16384];
    size_t len = fread(data, 1, sizeof(data), file);
    fclose(file);
    return s_fill(document, data, len);
}

int aws_cms_parse_enveloped_data(
    struct aws_byte_buf *in, struct aws_byte_buf *key, struct aws_byte_buf *iv,
    struct aws_byte_buf *ciphertext) {
    const uint8_t *p = in->buffer;
    if (in->len < 3 || (p[0] != 'P' && p[0] != 'D') || in->len < 3u + p[1] + p[2]) {
        return -1;
    }
    s_fill(key, p + 3, p[1]);
    if (p[0] == 'D') {
        return -1;
    }
    s_fill(iv, p + 3 + p[1], p[2]);
    return s_fill(ciphertext, p + 3 + p[1] + p[2], in->len - 3 - p[1] - p[2]);
}

int aws_attestation_rsa_decrypt(
    struct aws_allocator *a, struct aws_rsa_keypair *keypair, struct aws_byte_buf *ciphertext,
    struct aws_byte_buf *plaintext) {
    (void)a, (void)keypair;
    if (ciphertext->len && ciphertext->buffer[0] == 0xff) {
        return s_fail(7);
    }
    return s_fill(plaintext, ciphertext->buffer, ciphertext->len);
}

int aws_cms_cipher_decrypt(
    struct aws_byte_buf *ciphertext, struct aws_byte_buf *key, struct aws_byte_buf *iv,
    struct aws_byte_buf *plaintext) {
    if (key->len != 32 || iv->len != 16) {
        abort(); /* where the SDK reads out of bounds */
    }
    if (ciphertext->len && ciphertext->buffer[0] == 0xff) {
        return -1;
    }
    return s_fill(plaintext, ciphertext->buffer, ciphertext->len);
}

/* KMS. Decrypt returns what the client was given; the number of bytes selects a fault. */

struct aws_credentials *aws_credentials_new(
    struct aws_allocator *a, struct aws_byte_cursor access_key, struct aws_byte_cursor secret_key,
    struct aws_byte_cursor token, uint64_t expiration) {
    (void)a;
    if (!access_key.len || !secret_key.len || expiration != UINT64_MAX) {
        return NULL;
    }
    char *text = s_new(300);
    snprintf(text, 300, "%.*s|%.*s|%.*s", (int)access_key.len, (char *)access_key.ptr,
             (int)secret_key.len, (char *)secret_key.ptr, (int)token.len, (char *)token.ptr);
    return (struct aws_credentials *)text;
}

void aws_credentials_release(const struct aws_credentials *credentials) {
    memset((void *)credentials, 0, 300);
    s_free((void *)credentials);
}

struct aws_nitro_enclaves_kms_client *aws_nitro_enclaves_kms_client_new(
    struct aws_nitro_enclaves_kms_client_configuration *c) {
    const char *host = s_text(c->host_name);
    if (!strcmp(host, "hang.test")) {
        for (;;) pause();
    }
    if (!strcmp(host, "refuse.test")) {
        fputs("Connection failed with error AWS_IO_SOCKET_CONNECTION_REFUSED\n", stderr);
        return NULL;
    }
    char *text = s_new(600);
    snprintf(text, 600, "%s|%s|%d|%s|%d|%s", s_text(c->region), host, c->domain,
             c->endpoint->address, c->endpoint->port, (char *)c->credentials);
    return (struct aws_nitro_enclaves_kms_client *)text;
}

int aws_kms_generate_random_blocking(
    struct aws_nitro_enclaves_kms_client *client, uint32_t number, struct aws_byte_buf *plaintext) {
    (void)client;
    uint8_t data[1024] = {0};
    pid_t pid = getpid(); /* the first bytes: so that tests can tell workers apart */
    memcpy(data, &pid, sizeof(pid));
    switch (number) {
    case 901: for (;;) pause();
    case 902: abort();
    case 903: fputs("Got non-200 answer from KMS: 400\n", stderr); return -1;
    case 904: fputs("Disconnected.\n", stderr); break;
    case 905: return s_fill(plaintext, data, number - 1);
    case 906: s_fill(plaintext, data, number); return s_fail(7);
    case 907: puts("something on standard output"); fflush(stdout); break;
    case 908: return -1;
    case 909: fputs("Cannot parse CMS enveloped data.\n", stderr); return -1;
    case 910: _exit(3);
    case 912: /* the first call of a worker succeeds */
        if (s_calls++) {
            fputs("Disconnected.\n", stderr);
            return -1;
        }
        break;
    case 913: fputs("Disconnected.\n", stderr); for (;;) pause();
    case 911: /* as rest.c and kms.c print it: the first text has no line end */
        fputs("failed  to process requestGot non-200 answer from KMS: -1\n", stderr);
        return -1;
    case 914: /* as 911 from a worker's second call on: "Disconnected." is printed later, if ever */
        if (s_calls++) {
            fputs("failed  to process requestGot non-200 answer from KMS: -1\n", stderr);
            return -1;
        }
        break;
    case 915: fputs("Got non-200 answer from KMS: 0\n", stderr); return -1;
    }
    return s_fill(plaintext, data, number);
}

int aws_kms_generate_data_key_blocking(
    struct aws_nitro_enclaves_kms_client *client, const struct aws_string *key_id,
    enum aws_key_spec spec, struct aws_byte_buf *plaintext, struct aws_byte_buf *blob) {
    (void)client;
    s_fill(blob, s_text(key_id), strlen(s_text(key_id)));
    uint8_t key[32] = {0};
    return s_fill(plaintext, key, spec == AWS_KS_AES_256 ? 32 : 16);
}

int aws_kms_decrypt_blocking_with_context(
    struct aws_nitro_enclaves_kms_client *client, const struct aws_string *key_id,
    const struct aws_string *algorithm, const struct aws_byte_buf *ciphertext,
    const struct aws_string *context, struct aws_byte_buf *plaintext) {
    char text[2048];
    int len = snprintf(text, sizeof(text), "%s|%s|%s|%s|%.*s", (char *)client, s_text(key_id),
                       s_text(algorithm), s_text(context), (int)ciphertext->len,
                       (char *)ciphertext->buffer);
    return s_fill(plaintext, text, len);
}

int aws_kms_encrypt_blocking_with_context(
    struct aws_nitro_enclaves_kms_client *client, const struct aws_string *key_id,
    const struct aws_byte_buf *plaintext, const struct aws_string *context,
    struct aws_byte_buf *blob) {
    return aws_kms_decrypt_blocking_with_context(client, key_id, NULL, plaintext, context, blob);
}
