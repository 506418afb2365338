/* aws/nitro_enclaves/kms.h, and of aws-c-io and aws-c-auth what its client is configured with. */

enum aws_socket_domain {
    AWS_SOCKET_IPV4, AWS_SOCKET_IPV6, AWS_SOCKET_LOCAL, AWS_SOCKET_VSOCK, ...
};
struct aws_socket_endpoint {
    char address[...];
    uint16_t port;
    ...;
};

struct aws_credentials;
struct aws_credentials *aws_credentials_new(
    struct aws_allocator *allocator,
    struct aws_byte_cursor access_key_id_cursor,
    struct aws_byte_cursor secret_access_key_cursor,
    struct aws_byte_cursor session_token_cursor,
    uint64_t expiration_timepoint_seconds);
void aws_credentials_release(const struct aws_credentials *credentials);

enum aws_key_spec { AWS_KS_AES_256, AWS_KS_AES_128, ... };

struct aws_nitro_enclaves_kms_client_configuration {
    struct aws_allocator *allocator;
    const struct aws_string *region;
    const struct aws_socket_endpoint *endpoint;
    enum aws_socket_domain domain;
    struct aws_credentials *credentials;
    const struct aws_string *host_name;
    ...;
};

/* No _destroy: version 0.4.4's is a use after free. A client ends with its process. */
struct aws_nitro_enclaves_kms_client;
struct aws_nitro_enclaves_kms_client *aws_nitro_enclaves_kms_client_new(
    struct aws_nitro_enclaves_kms_client_configuration *configuration);

int aws_kms_generate_random_blocking(
    struct aws_nitro_enclaves_kms_client *client,
    uint32_t number_of_bytes,
    struct aws_byte_buf *plaintext);
int aws_kms_generate_data_key_blocking(
    struct aws_nitro_enclaves_kms_client *client,
    const struct aws_string *key_id,
    enum aws_key_spec key_spec,
    struct aws_byte_buf *plaintext,
    struct aws_byte_buf *ciphertext_blob);
int aws_kms_decrypt_blocking_with_context(
    struct aws_nitro_enclaves_kms_client *client,
    const struct aws_string *key_id,
    const struct aws_string *encryption_algorithm,
    const struct aws_byte_buf *ciphertext,
    const struct aws_string *encryption_context,
    struct aws_byte_buf *plaintext);
int aws_kms_encrypt_blocking_with_context(
    struct aws_nitro_enclaves_kms_client *client,
    const struct aws_string *key_id,
    const struct aws_byte_buf *plaintext,
    const struct aws_string *encryption_context,
    struct aws_byte_buf *ciphertext_blob);
