"""What clients send and get: OpenAI's, Cohere's and Voyage's shapes."""
