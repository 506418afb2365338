/*
 * NOT aws-nitro-enclaves-sdk-c. A stand-in with the same ABI for the functions that enclave/sdk
 * binds, so that the bindings can be tested where the SDK is not installed: it counts what is
 * allocated, and fails, hangs and crashes when told to. It does no cryptography, talks to no NSM
 * and to no KMS, and this macro marks whatever is built with it.
 */
#ifndef NITRO_ENCLAVE_AGENT_STAND_IN
#define NITRO_ENCLAVE_AGENT_STAND_IN 1

#include <stddef.h>
#include <stdint.h>

struct aws_allocator;
struct aws_string;
struct aws_rsa_keypair;
struct aws_credentials;
struct aws_nitro_enclaves_kms_client;

struct aws_byte_buf {
    size_t len;
    uint8_t *buffer;
    size_t capacity;
    struct aws_allocator *allocator;
};
struct aws_byte_cursor {
    size_t len;
    uint8_t *ptr;
};
void aws_byte_buf_clean_up_secure(struct aws_byte_buf *buf);
struct aws_string *aws_string_new_from_array(struct aws_allocator *a, const uint8_t *p, size_t n);
void aws_string_destroy_secure(struct aws_string *str);
int aws_last_error(void);
void aws_reset_error(void);
const char *aws_error_name(int err);

enum aws_socket_domain { AWS_SOCKET_IPV4, AWS_SOCKET_IPV6, AWS_SOCKET_LOCAL, AWS_SOCKET_VSOCK };
struct aws_socket_endpoint {
    char address[108];
    uint16_t port;
};
struct aws_credentials *aws_credentials_new(
    struct aws_allocator *a, struct aws_byte_cursor access_key, struct aws_byte_cursor secret_key,
    struct aws_byte_cursor token, uint64_t expiration);
void aws_credentials_release(const struct aws_credentials *credentials);

void aws_nitro_enclaves_library_init(struct aws_allocator *allocator);
int aws_nitro_enclaves_library_seed_entropy(uint64_t bytes);
struct aws_allocator *aws_nitro_enclaves_get_allocator(void);

enum aws_rsa_key_size { AWS_RSA_2048 = 2048 };
struct aws_rsa_keypair *aws_attestation_rsa_keypair_new(
    struct aws_allocator *a, enum aws_rsa_key_size size);
void aws_attestation_rsa_keypair_destroy(struct aws_rsa_keypair *keypair);
int aws_attestation_request(
    struct aws_allocator *a, struct aws_rsa_keypair *keypair, struct aws_byte_buf *document);
int aws_attestation_rsa_decrypt(
    struct aws_allocator *a, struct aws_rsa_keypair *keypair, struct aws_byte_buf *ciphertext,
    struct aws_byte_buf *plaintext);

enum aws_key_spec { AWS_KS_UNINITIALIZED = -1, AWS_KS_AES_256, AWS_KS_AES_128 };
struct aws_nitro_enclaves_kms_client_configuration {
    struct aws_allocator *allocator;
    const struct aws_string *region;
    const struct aws_socket_endpoint *endpoint;
    enum aws_socket_domain domain;
    struct aws_credentials *credentials;
    void *credentials_provider;
    const struct aws_string *host_name;
};
struct aws_nitro_enclaves_kms_client *aws_nitro_enclaves_kms_client_new(
    struct aws_nitro_enclaves_kms_client_configuration *configuration);
int aws_kms_generate_random_blocking(
    struct aws_nitro_enclaves_kms_client *client, uint32_t number, struct aws_byte_buf *plaintext);
int aws_kms_generate_data_key_blocking(
    struct aws_nitro_enclaves_kms_client *client, const struct aws_string *key_id,
    enum aws_key_spec spec, struct aws_byte_buf *plaintext, struct aws_byte_buf *blob);
int aws_kms_decrypt_blocking_with_context(
    struct aws_nitro_enclaves_kms_client *client, const struct aws_string *key_id,
    const struct aws_string *algorithm, const struct aws_byte_buf *ciphertext,
    const struct aws_string *context, struct aws_byte_buf *plaintext);
int aws_kms_encrypt_blocking_with_context(
    struct aws_nitro_enclaves_kms_client *client, const struct aws_string *key_id,
    const struct aws_byte_buf *plaintext, const struct aws_string *context,
    struct aws_byte_buf *blob);

/* Of the stand-in alone, for tests: */
long stand_in_live(void);       /* allocations not freed */
long stand_in_inits(void);      /* calls of aws_nitro_enclaves_library_init */
#endif
